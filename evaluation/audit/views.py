"""What somebody holds of a picture: the tiles that were sent there, decoded and put in their places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt

from evaluation.audit.play import Received
from runtime.frames.canvas import Canvas
from stages.geometry import Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import TileCode, cut
from stages.tile_inputs import blank_canvas

MOST_COALITIONS = 20  # of several operators that are looked at; all of up to 6 operators
CONSIDERED = 10_000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """RGB uint8 `pixels` [rows, cols, 3] of a picture on its canvas, black where `known`, bool [rows, cols],
    is False; `windows` are those held."""

    pixels: Pixels
    known: Mask
    windows: frozenset[int]

    @property
    def share(self) -> float:
        """Of the picture's area, 0..1."""
        return float(self.known.mean())


def view_of(geometry: Geometry, code: TileCode, canvas: Canvas, tiles: Mapping[int, Array]) -> View:
    """The picture that these tiles show; of `canvas` only its size counts."""
    pixels, known = blank_canvas(geometry), np.zeros(canvas.pixels.shape[:2], bool)
    if tiles:
        decoded = code.decode(np.stack([tile.ravel() for tile in tiles.values()]), geometry)
        for window, tile in zip(tiles, decoded, strict=True):
            cut(pixels, window, geometry)[:] = np.rint(tile)
            cut(known, window, geometry)[:] = True
    rows, cols = canvas.rows, canvas.cols
    return View(pixels[:rows, :cols], known[:rows, :cols], frozenset(tiles))


def whole_view(code: TileCode, canvas: Canvas) -> View:
    """What one would hold who had the whole picture as it is coded."""
    windows = canvas.windows
    coded = code.encode(canvas.pixels, canvas.extents[list(windows)], windows, canvas.geometry)
    return view_of(canvas.geometry, code, canvas, dict(zip(windows, coded, strict=True)))


def coalitions(operators: Iterable[str], size: int) -> list[tuple[str, ...]]:
    """Every `size` of the operators, in order; of several together MOST_COALITIONS at most, evenly drawn."""
    every = combinations(sorted(operators), size)
    if size == 1:
        return list(every)
    found = list(islice(every, CONSIDERED))
    step = max(1, -(-len(found) // MOST_COALITIONS))
    return found[::step]


def pooled(received: Received, coalition: Iterable[str]) -> dict[int, Array]:
    """The tiles that these operators have together."""
    return {window: tile for operator in coalition for window, tile in received[operator].items()}


def views(
    geometry: Geometry, code: TileCode, canvas: Canvas, received: Received, size: int
) -> Iterator[tuple[tuple[str, ...], View]]:
    """Each coalition of `size` operators with what it holds of a picture."""
    for coalition in coalitions(received, size):
        yield coalition, view_of(geometry, code, canvas, pooled(received, coalition))
