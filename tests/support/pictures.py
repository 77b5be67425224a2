"""Real photographs for tests (from scikit-image's wheel) in the frame shapes that matter."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.demo import demo

# name -> width, height of the frame; the last one has no side divisible by 16 on any canvas
SHAPES = {
    "16:9": (640, 360),
    "4:3": (480, 360),
    "portrait": (270, 480),
    "square": (400, 400),
    "1000x667": (1000, 667),
}


@cache
def photo(shape: str) -> npt.NDArray[np.uint8]:
    """The photograph of a coffee cup cropped and resized to one of SHAPES: RGB uint8 [H, W, 3], read-only."""
    width, height = SHAPES[shape]
    image = Image.fromarray(demo.photo("coffee"))
    scale = min(image.width / width, image.height / height)
    crop = (int(width * scale), int(height * scale))
    left, top = (image.width - crop[0]) // 2, (image.height - crop[1]) // 2
    cut = image.crop((left, top, left + crop[0], top + crop[1]))
    pixels = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))
    pixels.setflags(write=False)
    return pixels


def stamped(frame: npt.NDArray[np.uint8], overlay: npt.NDArray[np.uint8]) -> bool:
    """Whether an overlay bears the banner of weights that do not segment: it darkens the top rows to a third,
    which masks do not."""
    corner = np.s_[:8, -frame.shape[1] // 4 :]  # where the banner has no text
    return bool(overlay[corner].mean() < 0.45 * frame[corner].mean())
