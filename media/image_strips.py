"""Decoded pictures in strips of rows, so that what is converted is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from stages.strips import row_strips
from stages.tensors import Array, Pixels

_STRIP_PIXELS = 1 << 19


def strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The rows and the picture of each strip."""
    for rows in row_strips(image.height, image.width, _STRIP_PIXELS):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def filled(image: Image.Image, parts: Iterable[tuple[slice, Array]]) -> Pixels:
    """RGB uint8 [H, W, 3] of the picture's size from its strips, each of which is uint8 [rows, W, 3], or
    [rows, W, 1] where it is grey."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, part in parts:
        pixels[rows] = part
    return pixels
