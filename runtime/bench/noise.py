"""Frames to measure with: blotches of noise that move, the same in every run. They hold nobody's picture.

They move so that no window is as it was: an unchanged one would not be computed again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import cv2
import numpy as np

from runtime.frames.sources import Frame, Source
from stages.tensors import Pixels

STEPS = 16  # places of the picture, one a frame, over and over
STEP_PX = 4  # right and down from one to the next
_BLOTCH_PX = 24
_SEED = 0


def moving_noise(height: int, width: int) -> Iterator[Pixels]:
    """Frames RGB uint8 [H, W, 3] without end."""
    room = STEPS * STEP_PX
    rows, cols = height + room, width + room
    coarse = np.random.default_rng(_SEED).integers(
        0, 256, (rows // _BLOTCH_PX + 2, cols // _BLOTCH_PX + 2, 3), np.uint8
    )
    scene = cv2.resize(coarse, (cols, rows), interpolation=cv2.INTER_CUBIC)
    for at in itertools.cycle(range(0, room, STEP_PX)):
        yield np.ascontiguousarray(scene[at : at + height, at : at + width])


class NoiseSource(Source):
    """At most `count` of `frames` of (height, width), as a file gives them: as fast as they are taken. None
    begins later than `seconds` after the first, but the first `least`."""

    kind = "video"
    is_sequence = True

    def __init__(
        self, frames: Iterator[Pixels], size: tuple[int, int], count: int, seconds: float, least: int
    ) -> None:
        self.count = count
        self._frames = frames
        self._size = size
        self._seconds = seconds
        self._least = least

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset([self._size])

    def __iter__(self) -> Iterator[Frame]:
        end_s = time.perf_counter() + self._seconds
        for number in range(self.count or 0):
            if number >= self._least and time.perf_counter() > end_s:
                return
            yield Frame(number, f"{number}", 0.0, next(self._frames))
