"""Windows that never leave the edge, whatever else happens: it computes them itself.

Which windows of a frame are kept is a set of their positions, wherever it comes from: boxes that a person
gives, or what `runtime.keeper` finds in the frame.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from runtime.frames.boxes import BoxXyxy, check_finite, check_not_empty, check_touches, within_one_pixel
from runtime.frames.canvas import Canvas
from stages.errors import InputError
from stages.geometry import Geometry


@dataclass(frozen=True)
class Kept:
    """The positions of a frame's windows that are kept, and the seconds it took to find them."""

    windows: frozenset[int] = frozenset()
    seconds: float = 0.0


# What is kept of the frame of this canvas and number, known before anything of it leaves.
Keep: TypeAlias = Callable[[Canvas, int], Awaitable[Kept]]


async def keep_none(canvas: Canvas, number: int) -> Kept:
    return Kept()


def touched(geometry: Geometry, boxes: Iterable[BoxXyxy]) -> frozenset[int]:
    """The windows of a canvas that boxes in its pixels touch."""
    size = geometry.image_size
    return frozenset(
        row * geometry.grid + col
        for left, top, right, bottom in boxes
        for row in _tiles(_within(top, bottom, size), geometry.tile_px)
        for col in _tiles(_within(left, right, size), geometry.tile_px)
    )


@dataclass(frozen=True)
class KeptBoxes:
    """Boxes in pixels of the frame, of which nothing leaves. In a frame of another size they are the same
    pixels. Raises InputError for a box that cannot be meant."""

    boxes: tuple[BoxXyxy, ...] = ()

    def __post_init__(self) -> None:
        for box in self.boxes:
            check_finite(_name(box), box)
            check_not_empty(_name(box), box)
            if all(0 <= number <= 1 for number in box):
                raise InputError(within_one_pixel(_name(box)))

    def check_inside(
        self,
        sizes: Iterable[tuple[int, int]],
        pictures: Mapping[tuple[int, int], str] = MappingProxyType({}),
    ) -> None:
        """Raise InputError when a box lies outside frames of one of these (height, width); `pictures` names a
        picture of a size."""
        for size in sizes:
            for box in self.boxes:
                check_touches(_name(box), box, *size, pictures.get(size))

    def of(self, canvas: Canvas) -> frozenset[int]:
        """The windows of a canvas that show something of a box."""
        return self.windows(canvas.geometry, canvas.height, canvas.width)

    def windows(self, geometry: Geometry, height: int, width: int) -> frozenset[int]:
        """The same, for frames of this size."""
        rows, cols = geometry.resized(height, width)
        return frozenset(
            row * geometry.grid + col
            for left, top, right, bottom in self.boxes
            for row in _tiles(_reached(top, bottom, height, rows), geometry.tile_px)
            for col in _tiles(_reached(left, right, width, cols), geometry.tile_px)
        )


def _name(box: BoxXyxy) -> str:
    return f"--keep-box {','.join(f'{number:g}' for number in box)}"


def _reached(start: float, stop: float, frame_px: int, canvas_px: int) -> range:
    """The pixels of the canvas, along one side, that are made of frame pixels from start to stop.

    Pillow's bilinear filter mixes frame pixels less than `reach` from the middle of a canvas pixel.
    """
    first, last = max(0, math.floor(start)), min(frame_px, math.ceil(stop)) - 1
    if first > last:
        return range(0)
    scale = frame_px / canvas_px
    reach = max(scale, 1.0)
    before = (first + 0.5 - reach) / scale - 0.5
    after = (last + 0.5 + reach) / scale - 0.5
    return range(max(0, math.floor(before) + 1), min(canvas_px, math.ceil(after)))


def _within(start: float, stop: float, side_px: int) -> range:
    return range(max(0, math.floor(start)), min(side_px, math.ceil(stop)))


def _tiles(pixels: range, tile_px: int) -> range:
    return range(pixels.start // tile_px, pixels[-1] // tile_px + 1) if pixels else range(0)
