"""Samples: one picture and its instances, whatever they are read from. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from media.pictures import (
    PictureInfo,
    decode_picture,
    picture_info,
    read_label_map,
    read_picture,
    turned,
)
from stages.tensors import Pixels
from training.segmentations import Frame, Mask, Segmentation

MAX_INSTANCES = 255  # a label map to train with is 8-bit
Numbers: TypeAlias = npt.NDArray[np.int64]


class Sample(ABC):
    """One picture and its instances; `name` is the only one of its data."""

    name: str

    @abstractmethod
    def image(self) -> Pixels:
        """RGB uint8 [H, W, 3]. Raises InputError for a picture that cannot be read."""

    @abstractmethod
    def each_mask(self) -> Iterator[Mask]:
        """Instance masks, bool [H, W], one after the other. Raises InputError like `image`."""

    @abstractmethod
    def objects(self) -> int:
        """How many instances there are."""

    @abstractmethod
    def shape(self) -> Frame:
        """Height and width of the picture. Raises InputError like `image`, but need not decode it."""

    def labels(self) -> Pixels:
        """Masks as one label map, uint8 [H, W]: the biggest MAX_INSTANCES, smaller ones on top."""
        numbers = np.zeros(self.shape(), np.int64)
        smallest = np.full(numbers.shape, numbers.size + 1)  # the area of the instance on top
        for number, mask in enumerate(self.each_mask(), 1):
            area = np.count_nonzero(mask)
            on_top = mask & (area <= smallest)
            numbers[on_top], smallest[on_top] = number, area
        return _of_8_bits(numbers)


class LabelledSample(Sample):
    """A picture whose masks come as a label map."""

    def numbers(self) -> Numbers | Pixels:
        """The label map, [H, W]: 0 is background, each other number an instance."""
        return self.labels()

    def shape(self) -> Frame:
        height, width = self.labels().shape
        return height, width

    def objects(self) -> int:
        return int(np.count_nonzero(np.unique(self.labels())))

    def each_mask(self) -> Iterator[Mask]:
        numbers = self.numbers()
        for number in np.unique(numbers):
            if number:
                yield numbers == number


@dataclass(frozen=True)
class PairSample(LabelledSample):
    """A picture and its label map, two files; the label map is turned by an EXIF `orientation`."""

    name: str
    picture: Path
    label_map: Path
    orientation: int

    def image(self) -> Pixels:
        return read_picture(self.picture)

    def numbers(self) -> Numbers:
        return turned(read_label_map(self.label_map), self.orientation)

    def labels(self) -> Pixels:
        return _of_8_bits(self.numbers())


@dataclass(frozen=True)
class PackedSample(LabelledSample):
    """A picture and its label map in memory, compressed."""

    name: str
    picture: Pixels
    label_map: Pixels

    def image(self) -> Pixels:
        return decode_picture(self.picture.tobytes(), self.name)

    def labels(self) -> Pixels:
        return decode_picture(self.label_map.tobytes(), self.name)[..., 0]


@dataclass(frozen=True)
class CocoSample(Sample):
    """A picture of a COCO instance JSON; masks of `frame` are turned by an EXIF `orientation`."""

    name: str
    picture: Path
    frame: Frame
    orientation: int
    segmentations: tuple[Segmentation, ...]

    def image(self) -> Pixels:
        return read_picture(self.picture)

    def shape(self) -> Frame:
        height, width = self.frame
        return (width, height) if self.orientation > 4 else (height, width)

    def objects(self) -> int:
        return len(self.segmentations)

    def each_mask(self) -> Iterator[Mask]:
        for segmentation in self.segmentations:
            yield turned(segmentation.mask(self.frame), self.orientation)


@dataclass(frozen=True)
class PlainSample(Sample):
    """A picture without masks."""

    name: str
    picture: Path

    def image(self) -> Pixels:
        return read_picture(self.picture)

    def shape(self) -> Frame:
        info = picture_info(self.picture)
        return info.height, info.width

    def objects(self) -> int:
        return 0

    def each_mask(self) -> Iterator[Mask]:
        return iter(())


def orientation_for(info: PictureInfo, frame: Frame) -> int | None:
    """How masks of that frame are turned onto the upright picture: 1, not at all, where it has that size, the
    picture's own EXIF orientation where they were drawn on its pixels as stored, None where neither fits."""
    if frame == (info.height, info.width):
        return 1
    return info.orientation if frame == (info.width, info.height) and info.orientation > 4 else None


def _of_8_bits(numbers: Numbers) -> Pixels:
    """A label map as uint8; with a number over MAX_INSTANCES the biggest instances are numbered anew."""
    if numbers.max() <= MAX_INSTANCES:
        return numbers.astype(np.uint8)
    present, where, areas = np.unique(numbers, return_inverse=True, return_counts=True)
    areas[present == 0] = 0
    kept = np.sort(np.argsort(-areas, kind="stable")[: min(MAX_INSTANCES, np.count_nonzero(areas))])
    new = np.zeros(len(present), np.uint8)
    new[kept] = np.arange(1, len(kept) + 1)
    return new[where.reshape(numbers.shape)]
