"""Pictures with known instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.masks import Box, Pixels
from tests.pictures import photo


def write_pair(folder: Path, name: str, shape: str, *boxes: Box) -> Pixels:
    """A photograph in one of tests.pictures.SHAPES whose instances fill boxes; returns its label map."""
    picture = photo(shape)
    labels = np.zeros(picture.shape[:2], np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    Image.fromarray(labels).save(folder / f"{name}.png")
    return labels
