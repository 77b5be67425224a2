"""Pictures to check an export of a lower precision with: a folder's photographs, or a synthetic one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from media.folders import find_pictures, folded
from media.pictures import SUFFIXES, read_picture
from stages.errors import InputError
from stages.geometry import Geometry
from stages.tensors import Pixels
from stages.words import in_order

MAX_PICTURES = 8  # pictures of a folder that are used: seconds each for vit_b
SEED = 20260102


def check_pictures(geometry: Geometry, folder: Path | None) -> list[Pixels]:
    """RGB uint8 pictures resized to the canvas: the first MAX_PICTURES of `folder`, or a synthetic one.

    Raises InputError for a folder without pictures.
    """
    if folder is None:
        return [made_picture(geometry)]
    return [resized(read_picture(path), geometry) for path in photographs(folder)[:MAX_PICTURES]]


def photographs(folder: Path) -> list[Path]:
    """The pictures of a folder and its folders; not the label maps NAME.png and NAME.jpg.png of NAME.jpg,
    whatever is in capitals.

    Raises InputError where there are none.
    """
    paths = find_pictures(folder, inner=True).paths
    labelled = {folded(str(name)) for path in paths if not is_png(path) for name in label_map_names(path)}
    pictures = [
        path for path in paths if not is_png(path) or folded(str(path.with_suffix(""))) not in labelled
    ]
    if not pictures:
        raise InputError(f"{folder} holds no pictures: expected a folder of {in_order(SUFFIXES)} files")
    return pictures


def label_map_names(picture: Path) -> tuple[Path, Path]:
    """Paths, without .png, that a picture's label map may have: that of a.jpg is a.jpg.png or a.png."""
    return picture, picture.with_suffix("")


def is_png(path: Path) -> bool:
    """Whether it may be a label map, by its name."""
    return path.suffix.lower() == ".png"


def resized(picture: Pixels, geometry: Geometry) -> Pixels:
    """RGB uint8 [H, W, 3] as it lies on the canvas, without the padding."""
    rows, cols = geometry.resized(*picture.shape[:2])
    image = Image.fromarray(picture).resize((cols, rows), Image.Resampling.BILINEAR)
    return np.array(image, np.uint8)


def made_picture(geometry: Geometry, seed: int = SEED) -> Pixels:
    """A synthetic picture with statistics of photographs: a 1/f^2 power spectrum, correlated colours, flat
    discs with sharp edges, black and white. RGB uint8, 4:3, of canvas width."""
    rng = np.random.default_rng(seed)
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
