"""Embeddings of windows that have not changed: what was computed once is not sent again.

Whether a tile comes tells its site whether that window changed; the pixels themselves stay here. A window is
compared with the one its embedding was computed from, not with the frame before, so that slow change adds up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio
import cv2
import numpy as np

from stages.tensors import Array


@dataclass
class _Computed:
    """A window that was sent: its inputs and, once `done`, its embedding, None if that failed."""

    inputs: Mapping[str, Array]
    embedding: Array | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Reuse:
    """Keeps the last embedding of every window. `threshold` is a mean absolute difference in grey levels,
    0..255; at 0 a window must be the same to the byte."""

    def __init__(self, threshold: float = 0.0) -> None:
        self._threshold = threshold
        self._computed: dict[int, _Computed] = {}

    async def earlier(self, window: int, inputs: Mapping[str, Array]) -> Array | None:
        """The embedding of the same window as it was before, waiting for it if it is still on its way."""
        found = self._computed.get(window)
        if found is None or not self._alike(found.inputs, inputs):
            return None
        await found.done.wait()
        return found.embedding

    async def compute(
        self, window: int, inputs: Mapping[str, Array], embed: Callable[[], Awaitable[Array]]
    ) -> Array:
        """What `embed` gives, kept for later frames."""
        mine = self._computed[window] = _Computed(inputs)
        try:
            mine.embedding = await embed()
        finally:
            mine.done.set()
        return mine.embedding

    def forget(self) -> None:
        """Reuse nothing that was computed so far: part of it may come from a site that lied."""
        self._computed = {}

    def _alike(self, before: Mapping[str, Array], now: Mapping[str, Array]) -> bool:
        if not np.array_equal(before["extent"], now["extent"]):
            return False
        if self._threshold:
            return float(cv2.absdiff(before["tile"][0], now["tile"][0]).mean()) <= self._threshold
        return np.array_equal(before["tile"], now["tile"])
