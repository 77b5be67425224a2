"""Inputs of the stages that take tiles, from the pixels of a canvas: the only place that makes them.

They are made as format 2 of a bundle has them, and turned into what a stage's record asks for: in format 1 a
tile is its pixels, extents begin at the top left, and `whole` takes the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.bundle import Bundle
from stages.geometry import Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import TileCode, cut

Extents = npt.NDArray[np.int32]


def window_inputs(
    bundle: Bundle, pixels: Pixels, extents: Extents, windows: Sequence[int]
) -> dict[str, Array]:
    """Inputs of the stage that takes tiles, be it the window stage or a head, for some windows of a canvas.

    `pixels` is RGB [grid * S, grid * S, 3], `extents` [windows, 4] are of all windows (see Geometry.extents).
    """
    extents = extents[list(windows)]
    tiles: Array = bundle.tiles.encode(pixels, extents, windows, bundle.geometry)
    if bundle.format == 1:
        tiles, extents = tiles.reshape(len(windows), *bundle.geometry.tile_shape), _old_extents(extents)
    return {"tile": tiles, "index": np.array(windows, np.int32).reshape(-1, 1), "extent": extents}


def whole_inputs(bundle: Bundle, pixels: Pixels, extents: Extents) -> dict[str, Array]:
    """Inputs of the whole stage for a canvas; arguments as of `window_inputs`."""
    if bundle.format == 1:
        size, g = bundle.geometry.image_size, bundle.geometry
        rows, cols = _old_extents(extents).reshape(g.grid, g.grid, 2).sum(axis=(0, 1)) // g.grid
        canvas = np.ascontiguousarray(pixels[None, :size, :size])
        return {"canvas": canvas, "extent": np.array([[rows, cols]], np.int32)}
    return coded_canvas(bundle.tiles, bundle.geometry, pixels, extents)


def coded_canvas(code: TileCode, geometry: Geometry, pixels: Pixels, extents: Extents) -> dict[str, Array]:
    """Inputs of a whole stage of format 2."""
    return {"tile": code.encode(pixels, extents, range(geometry.windows), geometry), "extent": extents}


def blank_canvas(geometry: Geometry) -> Pixels:
    """A black canvas that whole windows tile, RGB [grid * S, grid * S, 3]."""
    size = geometry.grid * geometry.tile_px
    return np.zeros((size, size, 3), np.uint8)


def tile_on_canvas(tile: Pixels, window: int, geometry: Geometry) -> Pixels:
    """A canvas that is black but for one tile [S, S, 3]."""
    pixels = blank_canvas(geometry)
    cut(pixels, window, geometry)[:] = tile
    return pixels


def _old_extents(extents: Extents) -> Extents:
    """Rows and columns of picture, as format 1 has them: [n, 2].

    Raises ValueError where a picture begins elsewhere than at the top left, which it cannot say.
    """
    if extents[:, :2].any():
        raise ValueError("a bundle of format 1 takes tiles whose picture begins at the top left alone")
    return np.ascontiguousarray(extents[:, 2:])
