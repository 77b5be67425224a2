"""What one operator puts together of a scene that moves past its windows: tiles registered over time.

Between two frames its tiles have moved, by their phase correlation; tiles that disagree with most are not
believed. Pasted where they were at first, they show more and more of the first frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from evaluation.audit.play import Received
from evaluation.audit.views import Mask, View, view_of
from runtime.frames.canvas import Canvas
from stages.geometry import Geometry
from stages.tensors import Pixels
from stages.tile_code import TileCode, cut

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # frames after which it is looked at what there is
BLOCK_PX = 16
RMS = 16.0  # grey levels by which a block of the first frame may be off to be recovered: 24 dB
LEAST_RESPONSE = 0.1  # of a phase correlation that is believed


class Mosaic:
    """One operator's, of frames that are `add`ed in their order."""

    def __init__(self, geometry: Geometry, first: Pixels) -> None:
        self.frames = 0
        self._geometry = geometry
        self._first = first
        self._pixels = np.zeros_like(first)
        self._covered: Mask = np.zeros(first.shape[:2], bool)
        self._offset = np.zeros(2)  # x, y by which the scene has moved since the first frame
        self._before: View | None = None

    def add(self, view: View) -> None:
        """One more frame as the operator holds it; one of which it got nothing tells it nothing."""
        self.frames += 1
        if not view.windows:
            return
        if self._before is not None:
            self._offset += shift(self._before, view, self._geometry)
        self._before = view
        self._paste(view)

    def shares(self) -> tuple[float, float]:
        """Of the first frame: what something was pasted onto, and what is right. By blocks of BLOCK_PX."""
        return float(self._covered.mean()), float(self._right().mean())

    def _paste(self, view: View) -> None:
        rows, cols = self._covered.shape
        x, y = (round(float(side)) for side in self._offset)
        back = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
        known = cv2.warpAffine(view.known.astype(np.uint8), back, (cols, rows), flags=cv2.INTER_NEAREST) > 0
        pixels = cv2.warpAffine(view.pixels, back, (cols, rows), flags=cv2.INTER_NEAREST)
        new = np.asarray(known, bool) & ~self._covered
        self._pixels[new] = np.asarray(pixels)[new]
        self._covered |= new

    def _right(self) -> npt.NDArray[np.bool_]:
        """Which blocks are covered and near the first frame: bool [rows, columns of blocks]."""
        error = ((self._pixels.astype(np.float64) - self._first) ** 2).mean(axis=2)
        rows, cols = (side // BLOCK_PX for side in error.shape)
        blocks = (rows, BLOCK_PX, cols, BLOCK_PX)
        inside = np.s_[: rows * BLOCK_PX, : cols * BLOCK_PX]
        near = error[inside].reshape(blocks).mean(axis=(1, 3)) <= RMS**2
        return np.asarray(near & self._covered[inside].reshape(blocks).all(axis=(1, 3)))


def shift(before: View, after: View, geometry: Geometry) -> npt.NDArray[np.float64]:
    """By how many pixels (x, y) the scene has moved in what both views hold: the median of their tiles."""
    found = []
    for window in sorted(before.windows & after.windows):
        earlier, later = (_grey_tile(view, window, geometry) for view in (before, after))
        if min(earlier.shape) < BLOCK_PX:
            continue
        edges = cv2.createHanningWindow((earlier.shape[1], earlier.shape[0]), cv2.CV_32F)
        moved, response = cv2.phaseCorrelate(earlier, later, edges)
        if response >= LEAST_RESPONSE:
            found.append(moved)
    return np.median(np.array(found), axis=0) if found else np.zeros(2)


def _grey_tile(view: View, window: int, geometry: Geometry) -> npt.NDArray[np.float32]:
    """What of a window is picture, grey: float32 [h, w]."""
    tile = cut(view.pixels, window, geometry)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(tile), cv2.COLOR_RGB2GRAY), np.float32)


class Pasting:
    """The mosaics of all operators, of the frames of a session; `first` is the first frame.

    `rows` say what operators have after COUNTS of frames: the most of them, and their mean.
    """

    def __init__(self, first: Canvas, code: TileCode, operators: Sequence[str]) -> None:
        self.rows: list[dict[str, Any]] = []
        picture = first.pixels[: first.rows, : first.cols]
        self._code = code
        self._mosaics = {operator: Mosaic(first.geometry, picture) for operator in operators}

    def add(self, canvas: Canvas, received: Received) -> None:
        """What was received of one more frame. It blocks: use a thread."""
        for operator, mosaic in self._mosaics.items():
            mosaic.add(view_of(canvas.geometry, self._code, canvas, received[operator]))
        frames = {mosaic.frames for mosaic in self._mosaics.values()}
        if frames <= set(COUNTS):
            self.rows.append(_row(min(frames), [mosaic.shares() for mosaic in self._mosaics.values()]))


def _row(frames: int, shares: Sequence[tuple[float, float]]) -> dict[str, Any]:
    covered, recovered = zip(*shares, strict=True)
    return {
        "frames": frames,
        "covered_most": max(covered),
        "covered_mean": float(np.mean(covered)),
        "recovered_most": max(recovered),
        "recovered_mean": float(np.mean(recovered)),
    }
