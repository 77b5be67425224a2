"""What a code of tiles does to pictures: the error of decoded pixels, and coefficients that saturate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.geometry import Geometry
from stages.tensors import Pixels
from stages.tile_code import TileCode, cut
from stages.tile_inputs import blank_canvas


@dataclass(frozen=True)
class Coding:
    """`psnr_db` is that of the picture's own pixels, of all pictures together; `saturated` the share of
    coefficients that did not fit their byte, the mean over pictures."""

    psnr_db: float
    saturated: float

    @property
    def parity(self) -> dict[str, float]:
        """The same as numbers, for the bundle's record."""
        return {"tiles_psnr_db": self.psnr_db, "tiles_saturated": self.saturated}


def measure_coding(code: TileCode, geometry: Geometry, pictures: Sequence[Pixels]) -> Coding:
    """Code and decode pictures RGB uint8 [rows, cols, 3] of canvas size, or smaller at bottom and right."""
    squares, count, saturated = 0.0, 0, []
    windows = range(geometry.windows)
    for picture in pictures:
        canvas = blank_canvas(geometry)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        extents = geometry.extents(*picture.shape[:2])
        decoded = code.decode(code.encode(canvas, extents, windows, geometry), geometry)
        for window, (*_, bottom, right) in zip(windows, extents, strict=True):
            error = decoded[window, :bottom, :right] - cut(canvas, window, geometry)[:bottom, :right]
            squares += float((error**2).sum())
            count += error.size
        saturated.append(code.saturated(canvas, extents, windows, geometry))
    psnr_db = 10 * math.log10(255**2 / max(squares / count, 1e-6))
    return Coding(psnr_db, float(np.mean(saturated)))
