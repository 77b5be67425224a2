"""What outlines in two tones and names cost in overlays, beside one line around each mask and no name.

    python -m benchmarks.overlays --out benchmarks/results/overlays.json

Milliseconds are of the processor, of one whole overlay of a frame of 1920 x 1080: tinting, outlines, names.
The two ways take turns; `ratio` is the median of their ratios. Objects are ellipses, each of a twentieth of
the frame. `first_ms` is the first overlay of names that were not written before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe, where
from benchmarks.objects import FRAME, paired, processor_s
from benchmarks.sentences import check_out, sentences
from runtime.frames.sources import Frame
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Trust
from runtime.results.drawing import _label
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import PALETTE, _tint, draw_overlay

OBJECTS = (1, 2, 4, 8)
AXES_PX = (207, 159)  # of an ellipse of a twentieth of the frame


def frame_of(count: int, random: np.random.Generator) -> FrameResult:
    """A frame of noise with so many objects."""
    pixels = random.integers(0, 256, (*FRAME, 3), np.uint8)
    objects = tuple(
        ObjectResult(f"object {number}", number, TrackState.TRACKED, 0.9, _ellipse(number), None, Trust(0.8))
        for number in range(count)
    )
    return FrameResult(Frame(0, "0", 0.0, pixels), objects)


def _ellipse(number: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(FRAME, np.uint8)
    centre = (300 + 430 * (number % 4), 300 + 450 * (number // 4))
    cv2.ellipse(mask, centre, AXES_PX, 0, 0, 360, 1, -1)
    return mask.astype(bool)


def plain_overlay(result: FrameResult) -> npt.NDArray[np.uint8]:
    """The overlay with one line around each mask, and no name."""
    picture: npt.NDArray[np.uint8] = result.frame.pixels.copy()
    for each in result.objects:
        if each.mask is not None:
            colour = PALETTE[each.colour % len(PALETTE)]
            _tint(picture, each.mask, colour)
            outline, _ = cv2.findContours(each.mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outline, -1, colour, 4)
    return picture


def measure() -> dict[str, Any]:
    """By the number of objects."""
    random = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    draw_overlay(frame_of(1, random), None)  # loads the letters
    for count in OBJECTS:
        result = frame_of(count, random)
        _label.cache_clear()
        first_ms = round(1e3 * processor_s(lambda result=result: draw_overlay(result, None)), 2)  # type: ignore[misc]
        row = paired(
            lambda result=result: draw_overlay(result, None),  # type: ignore[misc]
            lambda result=result: plain_overlay(result),  # type: ignore[misc]
        )
        rows[str(count)] = {**row, "first_ms": first_ms}
    return rows


def markdown(result: Mapping[str, Any]) -> str:
    """Processor milliseconds by the number of objects, of both ways."""
    lines = [
        "| objects | one line, no names | two tones and names | ratio | the first time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for count, row in result["overlays"].items():
        cells = f"{row['plain_ms']:.1f} | {row['ms']:.1f} | {row['ratio']:.2f} | {row['first_ms']:.1f}"
        lines.append(f"| {count} | {cells} |")
    return "\n".join([*lines, "", f"Milliseconds of the processor; {where(result['machine'])}."])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    check_out(given.out)
    result = {"machine": describe(), "overlays": measure()}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    with sentences():
        main()
