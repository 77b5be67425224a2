"""Segmentations of COCO annotations: checked, and only then given to pycocotools, whose C code trusts them.

A coordinate that is no number or far away makes it write out of bounds or take all memory, and run lengths
that do not fill the picture are read past their end. Run lengths are therefore decoded here; polygons are
checked here and filled there, so that masks are those of other COCO tools to the pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.json_values import brief

Mask: TypeAlias = npt.NDArray[np.bool_]
Frame: TypeAlias = tuple[int, int]  # height, width

MAX_OUTLINE_PX = 4_000_000  # pycocotools takes about 100 bytes a pixel of it
_MAX_GROUPS = 6  # characters of one compressed run length: 30 bits


class BadSegmentation(ValueError):
    """No mask can be made of it: `reason` follows a number in a sentence, `found` is what there was."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(f"{reason}: {found}")
        self.reason = reason
        self.found = found


@dataclass(frozen=True)
class Polygons:
    """Parts of one object; each x1, y1, x2, y2, ... in pixels, float64 [2 n], n >= 3."""

    parts: tuple[npt.NDArray[np.float64], ...]

    def mask(self, frame: Frame) -> Mask:
        """bool [H, W]; what lies outside of the frame is cut off."""
        from pycocotools import mask as coco

        parts = coco.frPyObjects([part.tolist() for part in self.parts], *frame)
        return Runs(_decompressed(coco.merge(parts)["counts"])).mask(frame)


@dataclass(frozen=True)
class Runs:
    """Lengths of runs down the columns, background first, int64 [n]; together the pixels of the frame."""

    counts: npt.NDArray[np.int64]

    def mask(self, frame: Frame) -> Mask:
        """bool [H, W]."""
        height, width = frame
        filled = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return np.ascontiguousarray(filled.reshape(width, height).T)


Segmentation: TypeAlias = "Polygons | Runs"


def read_segmentation(value: Any, frame: Frame) -> Segmentation:
    """The segmentation of an annotation of a picture of that size. Raises BadSegmentation."""
    if value is None or value == [] or value == {}:
        raise BadSegmentation("without a mask")
    if isinstance(value, dict):
        return _runs(value, frame)
    if not isinstance(value, list):
        raise BadSegmentation("with a segmentation that is neither polygons nor RLE", brief(value))
    return _polygons(value, frame)


def _polygons(parts: list[Any], frame: Frame) -> Polygons:
    if not all(isinstance(part, list) for part in parts):
        raise BadSegmentation(
            "with a polygon that is not in a list",
            f"[{brief(parts[0])}, ...], expected [[x1, y1, x2, y2, ...]]",
        )
    outlines = [outline for outline in map(_outline, parts) if len(outline.points) >= 3]
    if not outlines:
        raise BadSegmentation("with less than three points", brief(parts))
    for outline in outlines:
        outline.check_distance(frame)
    solid = [outline for outline in outlines if not outline.flat()]
    if not solid:
        raise BadSegmentation("without an area", brief(parts))
    if not any(outline.touches(frame) for outline in solid):
        raise BadSegmentation("outside of the picture", brief(parts))
    if all(outline.in_shares() for outline in solid):
        raise BadSegmentation("with shares of the picture as coordinates", f"{brief(parts)}, expected pixels")
    return Polygons(tuple(outline.points.reshape(-1) for outline in solid))


@dataclass(frozen=True)
class _Outline:
    """Points x, y of a polygon, float64 [n, 2], and the box around them: left, top and right, bottom."""

    points: npt.NDArray[np.float64]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def check_distance(self, frame: Frame) -> None:
        """Polygons may go beyond the picture by its longest side: tools leave them so where they crop."""
        height, width = frame
        far = max(frame)
        if min(self.low) < -far or self.high[0] > width + far or self.high[1] > height + far:
            furthest = max((*self.low, *self.high), key=abs)
            found = f"{furthest:g} in a picture of {width} x {height} pixels"
            raise BadSegmentation("with a coordinate far outside of the picture", found)
        if len(self.points) * 3 * far > MAX_OUTLINE_PX and (length := self._length()) > MAX_OUTLINE_PX:
            raise BadSegmentation("with an outline that is too long", f"{length:.0f} pixels")

    def flat(self) -> bool:
        """Whether there is no area: all points are in one row, in one column, or just three in a line."""
        if self.low[0] == self.high[0] or self.low[1] == self.high[1]:
            return True
        (ax, ay), (bx, by), (cx, cy) = self.points[:3].tolist()
        return len(self.points) == 3 and (bx - ax) * (cy - ay) == (by - ay) * (cx - ax)

    def in_shares(self) -> bool:
        """Whether it lies within the first pixel, but not on its corners alone, as a mask of it may."""
        return min(self.low) >= 0 and max(self.high) <= 1 and not np.isin(self.points, (0, 1)).all()

    def touches(self, frame: Frame) -> bool:
        """Whether its box and the picture overlap."""
        height, width = frame
        return max(self.low[0] - width, self.low[1] - height) < 0 < min(self.high)

    def _length(self) -> float:
        steps = np.abs(np.diff(self.points, axis=0, append=self.points[:1]))
        return float(steps.max(axis=1).sum())


def _outline(part: list[Any]) -> _Outline:
    """x1, y1, x2, y2, ... as finite numbers."""
    if not set(map(type, part)) <= {int, float}:  # bool and text are no coordinates
        wrong = next(value for value in part if type(value) not in (int, float))
        pairs = ", expected x1, y1, x2, y2, ... and no pairs" if isinstance(wrong, list) else ""
        raise BadSegmentation("with coordinates that are not numbers", f"{brief(wrong)}{pairs}")
    if len(part) % 2:
        raise BadSegmentation("with an odd number of coordinates", f"{len(part)}")
    try:
        points = np.array(part, np.float64).reshape(-1, 2)
    except OverflowError as exc:
        raise BadSegmentation("with a coordinate far outside of the picture", "over 1e308") from exc
    if not part:
        return _Outline(points, (0, 0), (0, 0))
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if not all(map(math.isfinite, (*low, *high))):
        wrong = next(value for value in part if not math.isfinite(value))
        raise BadSegmentation("with a coordinate that is not finite", f"{wrong}")
    return _Outline(points, tuple(low), tuple(high))


def _runs(value: dict[str, Any], frame: Frame) -> Runs:
    size = value.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise BadSegmentation("with RLE that has no size", f"size {brief(size)}, expected [height, width]")
    if size != list(frame):
        swapped = " (width and height are swapped)" if size == list(frame[::-1]) else ""
        found = f"{brief(size)}, expected {list(frame)} (height, width){swapped}"
        raise BadSegmentation("with RLE of another size than the picture", found)
    counts = _counts(value.get("counts"))
    pixels = frame[0] * frame[1]
    if counts.size and (counts.min() < 0 or counts.max() > pixels):
        wrong = counts.min() if counts.min() < 0 else counts.max()
        raise BadSegmentation("with RLE whose counts are out of range", f"{wrong}")
    if (total := int(counts.sum())) != pixels:
        found = f"{total} pixels, expected {frame[0]} x {frame[1]} = {pixels}"
        raise BadSegmentation("with RLE that does not fill the picture", found)
    if not counts[1::2].any():
        raise BadSegmentation("with an empty mask", "RLE of background only")
    return Runs(counts)


def _counts(value: Any) -> npt.NDArray[np.int64]:
    if isinstance(value, str):
        return _decompressed(value.encode("utf-8", "replace"))
    if not (isinstance(value, list) and set(map(type, value)) <= {int}):
        raise BadSegmentation("with RLE whose counts are no list of whole numbers and no text", brief(value))
    try:
        return np.array(value, np.int64)
    except OverflowError as exc:
        raise BadSegmentation("with RLE whose counts are out of range", "over 9e18") from exc


def _decompressed(text: bytes) -> npt.NDArray[np.int64]:
    """Run lengths from COCO's text: five bits a character, least first; bit 5 says that more follow, and from
    the fourth on a number is added to the one before the last."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not codes.size:
        return codes
    last = (codes & 32) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1 if last[-1] else np.array([len(codes)])
    if codes.min() < 0 or codes.max() > 63 or not last[-1] or lengths.max() > _MAX_GROUPS:
        raise BadSegmentation("with RLE whose counts cannot be decoded", f"{text[:20]!r}")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * places), starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
