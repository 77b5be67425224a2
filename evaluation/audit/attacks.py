"""What can be made of the pixels that were not given, and how near it comes: PSNR and SSIM.

Holes are whole windows: nothing in them can be guessed but their rough colour. So they are filled on a small
picture, which is also quick. The membrane came out best of what was tried on held-out pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from evaluation.audit.views import Mask, View
from stages.tensors import Pixels

WORK_PX = 64  # longest side of the picture on which holes are filled
RADIUS_PX = 8.0  # around a pixel of it, that inpainting takes its value from
ROUNDS = 400  # of the membrane, after which it hardly moves
SSIM_SIGMA_PX = 1.5  # the Gaussian of Wang et al. 2004
_FOUR = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4  # the neighbours of a pixel
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

_Small = npt.NDArray[np.float32]


def mean_colour(view: View) -> Pixels:
    """The picture with everything unknown in the mean colour of what is known; grey where nothing is."""
    filled: Pixels = view.pixels.copy()
    filled[~view.known] = view.pixels[view.known].mean(axis=0).round() if view.known.any() else 128
    return filled


def inpainted(view: View) -> Pixels:
    """The picture with everything unknown filled from the edges inwards (A. Telea 2004, OpenCV)."""
    return _filled(view, _telea)


def membrane(view: View) -> Pixels:
    """The picture with everything unknown as smooth as it can be between what is known (Laplace)."""
    return _filled(view, _laplace)


Attack: TypeAlias = Callable[[View], Pixels]
# What an attacker can try without a model, by name.
ATTACKS: Mapping[str, Attack] = {
    "mean colour": mean_colour,
    "inpainting": inpainted,
    "membrane": membrane,
}
BEST = "membrane"


def _filled(view: View, fill: Callable[[_Small, Mask], _Small]) -> Pixels:
    """`fill` gets a small picture float32 [h, w, 3] and where it has holes, bool [h, w]."""
    if view.known.all() or not view.known.any():
        return mean_colour(view)
    rows, cols = view.known.shape
    scale = min(1.0, WORK_PX / max(rows, cols))
    size = max(1, round(cols * scale)), max(1, round(rows * scale))
    weight = cv2.resize(view.known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(view.pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small = np.asarray((colour / np.maximum(weight, 1e-6)[..., None]).clip(0, 255), np.float32)
    filled = fill(small, weight < 0.5).clip(0, 255)
    large = np.asarray(cv2.resize(filled, (cols, rows), interpolation=cv2.INTER_LINEAR).round(), np.uint8)
    large[view.known] = view.pixels[view.known]
    return large


def _telea(small: _Small, hole: Mask) -> _Small:
    filled = cv2.inpaint(small.astype(np.uint8), hole.astype(np.uint8), RADIUS_PX, cv2.INPAINT_TELEA)
    return np.asarray(filled, np.float32)


def _laplace(small: _Small, hole: Mask) -> _Small:
    filled: _Small = small.copy()
    filled[hole] = small[~hole].mean(axis=0) if not hole.all() else 128
    everywhere = np.repeat(hole[..., None], 3, axis=2)
    for _ in range(ROUNDS):
        mean = cv2.filter2D(filled, -1, _FOUR, borderType=cv2.BORDER_REPLICATE)
        np.copyto(filled, mean, where=everywhere)
    return filled


def psnr(truth: Pixels, made: Pixels, where: Mask) -> float:
    """Peak signal-to-noise ratio in dB of the pixels `where`; infinite for equal ones."""
    error = truth[where].astype(np.float64) - made[where]
    mse = float(np.mean(error**2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssim(truth: Pixels, made: Pixels, where: Mask) -> float:
    """Mean structural similarity of the grey values of the pixels `where` (Wang et al. 2004)."""
    return float(ssim_map(truth, made)[where].mean())


def ssim_map(truth: Pixels, made: Pixels) -> npt.NDArray[np.float32]:
    """Structural similarity at each pixel, float32 [H, W]."""
    x, y = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32) for each in (truth, made))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    return np.asarray(
        ((2 * mean_x * mean_y + _C1) * (2 * both + _C2))
        / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))
    )


def _blurred(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, (11, 11), SSIM_SIGMA_PX, borderType=cv2.BORDER_REFLECT))
