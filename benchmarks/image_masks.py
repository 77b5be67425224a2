"""The masks of two runs on the same pictures compared: `python -m benchmarks.image_masks ONE OTHER`.

ONE and OTHER are masks.jsonl of `pedsam run`. Prints the IoU of each frame's objects and ends with an error
below LEAST_IOU, or where one run lacks a mask of the other. Processors round differently in the last bits,
which moves single pixels of a border.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

LEAST_IOU = 0.99
Masks = dict[tuple[int, str], dict[str, Any]]


def read(path: Path) -> Masks:
    """COCO run-length encodings of a masks.jsonl, by frame and object."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        (line["frame"], line["object"]): line["segmentation"] for line in lines if line.get("segmentation")
    }


def compare(one: Masks, other: Masks) -> dict[tuple[int, str], float]:
    """IoU by frame and object. Raises ValueError where one lacks a mask of the other, or both hold none."""
    if one.keys() != other.keys() or not one:
        raise ValueError(f"the runs hold different masks: {sorted(one)} and {sorted(other)}")
    return {key: float(coco.iou([one[key]], [other[key]], [False])[0][0]) for key in sorted(one)}


def main(one: str, other: str) -> None:
    try:
        found = compare(read(Path(one)), read(Path(other)))
    except ValueError as exc:
        sys.exit(str(exc))
    for (frame, name), iou in found.items():
        print(f"frame {frame}, object {name}: IoU {iou:.5f}")
    if min(found.values()) < LEAST_IOU:
        sys.exit(f"below the {LEAST_IOU} allowed")
    print(f"all are at least {LEAST_IOU}")


if __name__ == "__main__":
    main(*sys.argv[1:])
