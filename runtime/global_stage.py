"""The global stage of one frame: at once when all windows have come, or row by row while others are on their
way.

Row by row, a row of windows that is complete is projected and attends to the rows that came before it, by
calls of the engine thread of the frame's own order, so that an older frame waits for one such call at most.
What is left when the last window comes is that row's part and `finish`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, TypeAlias

import anyio

from stages.engines.streaming_engine import StreamingEngine
from stages.engines.thread import EngineThread
from stages.tensors import Array

AHEAD: Final = "ahead"  # EngineThread's name of what is done before the last window
# Told what was done for which frame ahead of its last window, its start and end (time.perf_counter).
OnPart: TypeAlias = Callable[[str, int, float, float], None]


class GlobalStage(ABC):
    """The global stage of one frame, whose `embeddings` [windows, w, w, r] come window by window."""

    ahead_s: float = 0.0  # seconds of the engine before `finish`

    @abstractmethod
    def arrived(self, window: int) -> None:
        """The embedding of this window is there."""

    @abstractmethod
    async def work(self) -> None:
        """Do what can be done by now; may be cancelled at any time."""

    @abstractmethod
    def drop(self) -> None:
        """The frame will not be finished."""

    @abstractmethod
    async def finish(self) -> Array:
        """The image embedding, fp32 [1, 256, E, E], once all windows have arrived."""


class WholeGlobal(GlobalStage):
    """All at once, in `finish`."""

    def __init__(self, engines: EngineThread, embeddings: Array, order: int) -> None:
        self._engines = engines
        self._embeddings = embeddings
        self._order = order

    def arrived(self, window: int) -> None:
        pass

    async def work(self) -> None:
        pass

    def drop(self) -> None:
        pass

    async def finish(self) -> Array:
        outputs = await self._engines.infer("global", {"embedding": self._embeddings}, order=self._order)
        return outputs["image_embedding"]


class StreamedGlobal(GlobalStage):
    """Row by row. `windows` are those that will arrive; the others hold no picture."""

    def __init__(
        self,
        engines: EngineThread,
        engine: StreamingEngine,
        embeddings: Array,
        windows: Collection[int],
        order: int,
        on_part: OnPart | None = None,
    ) -> None:
        self._engines = engines
        self._engine = engine
        self._embeddings = embeddings
        self._grid = engine.grid
        self._order = order
        self._on_part = on_part
        self._missing = Counter(window // engine.grid for window in windows)
        self._frame = engine.start(set(range(engine.grid)) - self._missing.keys())
        self._news = anyio.Event()

    def arrived(self, window: int) -> None:
        row, grid = window // self._grid, self._grid
        self._missing[row] -= 1
        if not self._missing[row]:
            self._frame.add(row, self._embeddings[row * grid : (row + 1) * grid])
            self._news.set()

    async def work(self) -> None:
        while True:
            self._news = anyio.Event()
            while self._frame.more:
                await self._engines.run(self._advance, AHEAD, order=self._order)
            await self._news.wait()

    async def finish(self) -> Array:
        while self._frame.more:
            advance = partial(self._engine.advance, self._frame)
            await self._engines.run(advance, "global", order=self._order)
        finish = partial(self._engine.finish, self._frame)
        return await self._engines.run(finish, "global", order=self._order)

    def drop(self) -> None:
        self._frame.drop()

    def _advance(self) -> None:
        """On the engine thread."""
        started_s = time.perf_counter()
        part = self._engine.advance(self._frame)
        ended_s = time.perf_counter()
        self.ahead_s += ended_s - started_s
        if self._on_part is not None and part:
            self._on_part(part, self._order, started_s, ended_s)
