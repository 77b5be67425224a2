"""How much of the picture is in windows: what an operator that sees them has of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from stages.geometry import Geometry


class Areas:
    """Shares of the picture, for each shape that the frames of a run have.

    `shares` is float64 [shapes, windows]: what part of the picture lies in a window, 0..1. Without any shape
    the share of any windows is 0. Windows that are `kept` at the edge are shown to nobody from now on.
    """

    def __init__(self, shares: npt.NDArray[np.float64], kept: Collection[int] = ()) -> None:
        self._shares = shares
        self._kept = frozenset(kept)

    @classmethod
    def of(cls, geometry: Geometry, sizes: Iterable[tuple[int, int]], kept: Collection[int] = ()) -> Areas:
        """For frames of these (height, width)."""
        shapes = sorted({geometry.resized(*size) for size in sizes})
        areas = [geometry.extents(*shape)[:, 2:].prod(axis=1) / (shape[0] * shape[1]) for shape in shapes]
        return cls(np.array(areas, np.float64).reshape(-1, geometry.windows), kept)

    @property
    def windows(self) -> frozenset[int]:
        """Those that hold picture in one of the shapes and are not kept."""
        return frozenset(map(int, np.flatnonzero(self._shares.any(axis=0)))) - self._kept

    def share(self, windows: Iterable[int]) -> float:
        """What part of the picture lies in these windows, 0..1: the largest over all shapes.

        Windows outside the grid count nothing.
        """
        return float(self._shares[:, self._inside(windows)].sum(axis=1).max(initial=0.0))

    def most(self, windows: Iterable[int], more: int) -> float:
        """The largest `share` of these windows and `more` others that are not kept."""
        inside = self._inside(windows)
        apart = self._inside({*inside, *self._kept})
        others = np.sort(np.delete(self._shares, apart, axis=1), axis=1)[:, ::-1]
        shares = self._shares[:, inside].sum(axis=1) + others[:, :more].sum(axis=1)
        return float(shares.max(initial=0.0))

    def _inside(self, windows: Iterable[int]) -> list[int]:
        return [window for window in windows if 0 <= window < self._shares.shape[1]]
