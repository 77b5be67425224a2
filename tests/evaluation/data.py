"""Pictures with known instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.masks import Box
from stages.tensors import Pixels
from tests.support.pictures import photo


def write_pair(folder: Path, name: str, shape: str, *boxes: Box) -> Pixels:
    """A photograph of a shape of tests.support.pictures, with instances that fill boxes; its label map."""
    picture = photo(shape)
    labels = np.zeros(picture.shape[:2], np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    Image.fromarray(labels).save(folder / f"{name}.png")
    return labels
