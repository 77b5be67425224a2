"""The picture of a bench: a bar a way, made of the median times of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from runtime.bench.measured import FRAME, STAGES, TITLES, Measured
from runtime.results.sinks import PALETTE
from stages.tensors import Pixels

WIDTH, _LEFT, _RIGHT, _ROW, _LEGEND = 1200, 120, 130, 72, 28  # pixels
_TOP = 60
_COLUMNS = 3  # of the legend
_INK, _DARK = (30, 30, 30), 110
_LEAST_PX = 46  # of a part that has its milliseconds written into it


def picture(ways: Sequence[Measured], title: str) -> Pixels:
    """RGB uint8 [H, W, 3]: the bars on one scale, and which colour is which step."""
    rows = -(-len(STAGES) // _COLUMNS)
    height = _TOP + _ROW * len(ways) + _LEGEND * rows + 16
    image = np.full((height, WIDTH, 3), 255, np.uint8)
    _text(image, title, 12, 20)
    _text(image, "milliseconds of one frame, one step after another (medians)", 12, 44)
    longest_s = max(sum(_medians(measured)) for measured in ways)
    scale = (WIDTH - _LEFT - _RIGHT) / max(longest_s, 1e-9)
    for row, measured in enumerate(ways):
        _bar(image, measured, _TOP + row * _ROW, scale)
    for number, name in enumerate(STAGES.values()):
        row, column = divmod(number, _COLUMNS)
        left, top = 12 + column * (WIDTH - 24) // _COLUMNS, _TOP + _ROW * len(ways) + row * _LEGEND
        image[top : top + 16, left : left + 16] = _colour(number)
        _text(image, name, left + 24, top + 14)
    return image


def _medians(measured: Measured) -> list[float]:
    return [float(np.median(measured.seconds[stage])) for stage in STAGES]


def _bar(image: npt.NDArray[np.uint8], measured: Measured, top: int, scale: float) -> None:
    """One way from its first step to its last, and what a frame took end to end behind it."""
    _text(image, TITLES[measured.way], 12, top + 32)
    left_s = 0.0
    for number, median_s in enumerate(_medians(measured)):
        left, right = (_LEFT + round(at_s * scale) for at_s in (left_s, left_s + median_s))
        image[top + 8 : top + _ROW - 16, left:right] = _colour(number)
        if right - left >= _LEAST_PX:
            ink = _INK if np.mean(_colour(number)) > _DARK else (255, 255, 255)
            _text(image, f"{median_s * 1e3:.1f}", left + 6, top + 36, ink)
        left_s += median_s
    whole_s = float(np.median(measured.seconds[FRAME]))
    _text(image, f"{whole_s * 1e3:.1f} ms", _LEFT + round(left_s * scale) + 10, top + 36)


def _colour(number: int) -> tuple[int, int, int]:
    return PALETTE[number % len(PALETTE)]


def _text(
    image: npt.NDArray[np.uint8], text: str, left: int, bottom: int, ink: tuple[int, int, int] = _INK
) -> None:
    text = text.encode("ascii", "replace").decode()  # all that OpenCV can write
    cv2.putText(image, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
