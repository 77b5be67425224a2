"""Held windows cut out for a detector, as large as on a canvas of LOOK_PX, all of a picture on few sheets.

A detector's time goes with the area it looks at. Windows of one operator that touch stay together; what lies
between groups is not looked at. So it looks at each window once, however many operators there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.audit.attacks import mean_colour
from evaluation.audit.views import View
from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import make_canvas
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Pixels

LOOK = GEOMETRIES["vit_b"]
LOOK_PX = LOOK.image_size  # longest side of the picture that is looked at, and in which boxes are
SHEET_PX = 1216  # width of a sheet, which holds five tiles of vit_b beside each other
GAP_PX = 16
_STEP_PX = 32  # the height of a sheet is a multiple of it


@dataclass(frozen=True)
class Crop:
    """Part of a picture of LOOK_PX, RGB uint8 [h, w, 3], whose upper left corner is at `left`, `top`."""

    pixels: Pixels
    left: int
    top: int


@dataclass(frozen=True)
class Found:
    """A box that was found, in pixels of the picture of LOOK_PX and in those of its crop."""

    crop: Crop
    box: BoxXyxy
    in_crop: BoxXyxy


@dataclass(frozen=True)
class Sheet:
    """Crops beside each other, and where each lies: left and top."""

    pixels: Pixels
    placed: tuple[tuple[Crop, int, int], ...]

    def found(self, box: BoxXyxy) -> Found | None:
        """Where a box of the sheet is; None where its middle lies in no crop."""
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for crop, left, top in self.placed:
            rows, cols = crop.pixels.shape[:2]
            if left <= x < left + cols and top <= y < top + rows:
                inside = box[0] - left, box[1] - top, box[2] - left, box[3] - top
                there = inside[0] + crop.left, inside[1] + crop.top
                return Found(crop, (*there, inside[2] + crop.left, inside[3] + crop.top), inside)
        return None


def look_at(picture: Pixels) -> Crop:
    """A whole frame as it is on a canvas of LOOK_PX."""
    canvas = make_canvas(picture, LOOK)
    return Crop(canvas.pixels[: canvas.rows, : canvas.cols], 0, 0)


def crops_of(views: Sequence[View], geometry: Geometry) -> list[Crop]:
    """Each group of touching windows of each view, enlarged or not; what is not held in it is filled."""
    return [crop for view in views for crop in _crops(view, geometry)]


def _crops(view: View, geometry: Geometry) -> Iterator[Crop]:
    scale, filled = LOOK_PX / geometry.image_size, mean_colour(view)
    rows, cols = view.known.shape
    held = np.zeros((geometry.grid, geometry.grid), np.uint8)
    held.ravel()[sorted(view.windows)] = 1
    number, _, boxes, _ = cv2.connectedComponentsWithStats(held, connectivity=8)
    for left, top, wide, high, _ in (boxes[1:number] * geometry.tile_px).tolist():
        part = filled[top : min(rows, top + high), left : min(cols, left + wide)]
        if scale != 1:
            size = round(part.shape[1] * scale), round(part.shape[0] * scale)
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        yield Crop(part, round(left * scale), round(top * scale))


def sheets_of(crops: Sequence[Crop]) -> Iterator[Sheet]:
    """All crops on sheets SHEET_PX wide and at most as high, the highest first."""
    placed: list[tuple[Crop, int, int]] = []
    left = top = GAP_PX
    row = 0
    for crop in sorted(crops, key=lambda crop: -len(crop.pixels)):
        high, wide = crop.pixels.shape[:2]
        if left + wide + GAP_PX > SHEET_PX:
            left, top, row = GAP_PX, top + row + GAP_PX, 0
        if top + high + GAP_PX > SHEET_PX and placed:
            yield _sheet(placed)
            placed, left, top, row = [], GAP_PX, GAP_PX, 0
        placed.append((crop, left, top))
        left, row = left + wide + GAP_PX, max(row, high)
    if placed:
        yield _sheet(placed)


def _sheet(placed: Sequence[tuple[Crop, int, int]]) -> Sheet:
    bottom = max(top + len(crop.pixels) for crop, _, top in placed) + GAP_PX
    pixels = np.full((-(-bottom // _STEP_PX) * _STEP_PX, SHEET_PX, 3), 128, np.uint8)
    for crop, left, top in placed:
        rows, cols = crop.pixels.shape[:2]
        pixels[top : top + rows, left : left + cols] = crop.pixels
    return Sheet(pixels, tuple(placed))


def overlap(first: BoxXyxy, second: BoxXyxy) -> float:
    """Intersection over union of two boxes."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return both / max(areas - both, 1e-9)
