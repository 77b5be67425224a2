"""Inputs of a bundle's stages that show noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stages.bundle import Bundle
from stages.tensors import Array
from stages.tile_inputs import blank_canvas, window_inputs


def noise_windows(bundle: Bundle, extents: Mapping[int, tuple[int, int]], seed: int = 0) -> dict[str, Array]:
    """Inputs of the window stage for these windows; `extents` are bottom and right of the picture in each."""
    g = bundle.geometry
    shape = blank_canvas(g).shape
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    of_all = g.extents(0, 0)
    for window, (bottom, right) in extents.items():
        of_all[window] = 0, 0, bottom, right
    return window_inputs(bundle, pixels, of_all, list(extents))


def whole_windows(bundle: Bundle) -> dict[int, tuple[int, int]]:
    """`extents` of every window, full of picture."""
    return dict.fromkeys(range(bundle.geometry.windows), 2 * (bundle.geometry.tile_px,))
