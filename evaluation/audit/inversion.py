"""Pixels of a window from hidden values of it: one ridge regression from a token to its patch.

It is the simplest attack there is on embeddings, and on what the blocks of a head hand on. It knows the
values of other pictures together with their pixels, as everyone does who has the bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.tensors import Array, Pixels

RIDGE = 1e-6  # of the mean square of the values; anything up to 1e-3 gives the same

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inversion:
    """A linear map from a token's values, less their `mean` [D], to the pixels of its patch: `weights`
    [D, P * P * 3] and `patch`, their mean."""

    mean: _Floats
    weights: _Floats
    patch: _Floats

    def invert(self, hidden: Array) -> Pixels:
        """Windows RGB uint8 [n, S, S, 3] of values [n, tokens, D]; tokens are row-major in a square."""
        patches = (hidden.astype(np.float64) - self.mean) @ self.weights + self.patch
        return _joined(patches.round().clip(0, 255).astype(np.uint8))


def fit_inversion(hidden: Array, pixels: Pixels) -> Inversion:
    """The best linear map for these windows: values [n, tokens, D] and pixels RGB uint8 [n, S, S, 3].

    Raises ValueError where the tokens are no square that divides the window.
    """
    tokens, size = hidden.shape[1], pixels.shape[1]
    side = math.isqrt(tokens)
    if side * side != tokens or size % side:
        raise ValueError(f"{tokens} tokens are no square that divides windows of {size} pixels")
    values = hidden.reshape(-1, hidden.shape[-1]).astype(np.float64)
    patches = _cut(pixels, side).reshape(len(values), -1).astype(np.float64)
    mean, patch = values.mean(axis=0), patches.mean(axis=0)
    values -= mean
    square = values.T @ values
    square += np.eye(len(square)) * RIDGE * max(np.trace(square) / len(square), 1e-12)
    return Inversion(mean, np.linalg.solve(square, values.T @ (patches - patch)), patch)


def _cut(pixels: Pixels, side: int) -> Pixels:
    """[n, S, S, 3] -> [n, side * side, P * P * 3]."""
    n, size = pixels.shape[:2]
    patch = size // side
    cut = pixels.reshape(n, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    patches: Pixels = cut.reshape(n, side * side, -1)
    return patches


def _joined(patches: Pixels) -> Pixels:
    """The way back."""
    n, tokens = patches.shape[:2]
    side, patch = math.isqrt(tokens), math.isqrt(patches.shape[2] // 3)
    joined = patches.reshape(n, side, side, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    windows: Pixels = joined.reshape(n, side * patch, side * patch, 3)
    return windows
