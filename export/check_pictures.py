"""Pictures that an export of a lower precision is checked with: a folder's photographs, or one made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.data import read_pictures
from stages.errors import InputError
from stages.geometry import Geometry

Pixels = npt.NDArray[np.uint8]
MOST = 8  # pictures of a folder that are looked at: seconds each for vit_b
SEED = 20260102


def check_pictures(geometry: Geometry, folder: Path | None) -> list[Pixels]:
    """RGB uint8 pictures resized to the canvas: the first MOST of `folder`, or without it one made here.

    Raises InputError for a folder without pictures.
    """
    if folder is None:
        return [made_picture(geometry)]
    samples = read_pictures(folder)
    if not samples:
        raise InputError(f"{folder} holds no pictures; give --photos a folder of .jpg or .png files")
    return [resized(sample.image(), geometry) for sample in samples[:MOST]]


def resized(picture: Pixels, geometry: Geometry) -> Pixels:
    """RGB uint8 [H, W, 3] as it lies on the canvas, without the padding."""
    rows, cols = geometry.resized(*picture.shape[:2])
    image = Image.fromarray(picture).resize((cols, rows), Image.Resampling.BILINEAR)
    return np.array(image, np.uint8)


def made_picture(geometry: Geometry) -> Pixels:
    """A picture with what photographs have and noise has not: power that falls as 1/f^2, colours that go
    together, flat discs with sharp edges, full black and full white. RGB uint8, 4:3, of canvas width."""
    rng = np.random.default_rng(SEED)
    rows, cols = geometry.resized(3, 4)
    brightness = _smooth_noise(rng, rows, cols)
    colour = np.stack([_smooth_noise(rng, rows, cols) for _ in range(3)], axis=-1)
    picture = 128 + 70 * brightness[..., None] + 25 * colour
    y, x = np.mgrid[:rows, :cols] / cols
    for shade in (0, 255, *rng.integers(0, 256, (6, 3))):
        (centre_y, centre_x), radius = rng.random(2), 0.03 + 0.1 * rng.random()
        picture[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = shade
    return picture.clip(0, 255).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, rows: int, cols: int) -> npt.NDArray[np.float64]:
    """Noise [rows, cols] of mean 0 and deviation 1 whose amplitude falls as one over the frequency."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((rows, cols))) / frequency
    noise = np.fft.irfft2(spectrum, (rows, cols))
    scaled: npt.NDArray[np.float64] = noise / noise.std()
    return scaled
