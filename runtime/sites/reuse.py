"""Embeddings of windows that have not changed: what was computed once is not sent again.

Whether a tile comes tells its site whether that window changed; the pixels themselves stay here. A window is
compared, before it is coded, with the one its embedding was computed from, not with the frame before, so that
slow change adds up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import cv2
import numpy as np
import numpy.typing as npt

from runtime.sites.windows import WindowEmbedding
from stages.tensors import Pixels


@dataclass
class CachedWindow:
    """A window: its pixels [S, S, 3], where in them the picture is (see Geometry.extents) and, once `done` is
    set, its embedding and who computed it, None if that failed."""

    pixels: Pixels
    extent: npt.NDArray[np.int32]
    answer: WindowEmbedding | None = None
    done: anyio.Event = field(default_factory=anyio.Event)

    async def compute(self, embed: Callable[[], Awaitable[WindowEmbedding]]) -> WindowEmbedding:
        """What `embed` gives, kept for later frames."""
        try:
            self.answer = await embed()
        finally:
            self.done.set()
        return self.answer

    async def result(self) -> WindowEmbedding | None:
        """The answer, waiting for it if it is still on its way; None if that failed."""
        await self.done.wait()
        return self.answer


class Reuse:
    """Keeps the last embedding of every window. `threshold` is a mean absolute difference in grey levels,
    0..255; at 0 a window must be the same to the byte, and at None nothing is used again."""

    def __init__(self, threshold: float | None = 0.0) -> None:
        self._threshold = threshold
        self._cached: dict[int, CachedWindow] = {}

    def find(self, window: int, pixels: Pixels, extent: npt.NDArray[np.int32]) -> CachedWindow | None:
        """The same window as it was computed before, or is at this moment."""
        found = self._cached.get(window)
        if found is None or not np.array_equal(found.extent, extent):
            return None
        return found if self._same(found.pixels, pixels) else None

    def start(self, window: int, pixels: Pixels, extent: npt.NDArray[np.int32]) -> CachedWindow:
        """A window that is to be computed now, to be found by later frames from here on."""
        if self._threshold is None:
            return CachedWindow(pixels, extent)
        mine = CachedWindow(pixels.copy(), extent)  # a view would keep the whole canvas
        self._cached[window] = mine
        return mine

    def forget(self) -> None:
        """Reuse nothing that was computed so far: part of it may come from a site that lied."""
        self._cached = {}

    def _same(self, before: Pixels, now: Pixels) -> bool:
        if self._threshold:
            return float(cv2.absdiff(before, now).mean()) <= self._threshold
        return np.array_equal(before, now)
