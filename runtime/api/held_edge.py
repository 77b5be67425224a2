"""An edge that a task of its own holds open, so that any other task of the loop may use it and close it.

What anyio opens has to be closed by the same task; callers of a library are many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from anyio import CancelScope

from runtime.api.arguments import Size
from runtime.api.errors import SessionClosed
from runtime.edge import Edge, EdgeOptions, open_edge
from stages.bundle import Bundle

T = TypeVar("T")

CLOSED = "the session is closed; open another one with pedsam.open or pedsam.open_async"
LOG = logging.getLogger("pedsam")  # what a person is told of sites and of the ledger


class HeldEdge:
    """Opened once, then closed once. `edge` is there in between."""

    def __init__(self, bundle: Bundle, options: EdgeOptions, films: bool) -> None:
        self._bundle = bundle
        self._options = options
        self._films = films
        self._closing = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None
        self._edge: Edge | None = None
        self._works: set[asyncio.Task[Any]] = set()

    @property
    def edge(self) -> Edge:
        """The open edge. Raises SessionClosed where there is none."""
        if self._edge is None:
            raise SessionClosed(CLOSED)
        return self._edge

    async def open(self, sizes: Collection[Size]) -> None:
        """Open it for frames of these sizes. Raises a PedsamError as `open_edge` does; what was begun is
        closed then, and when this is cancelled."""
        opened = asyncio.Event()
        self._holding = asyncio.create_task(self._hold(sizes, opened), name="pedsam edge")
        waiting = asyncio.create_task(opened.wait())
        try:
            await asyncio.wait({self._holding, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._holding.cancel()
            await self._ended()
            raise
        finally:
            waiting.cancel()
        if self._holding.done():
            self._holding.result()  # raises why

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` with the edge gives. Where the edge ends meanwhile `work` is cancelled, and the edge's
        error raised, or SessionClosed."""
        if self._holding is None or self._closing.is_set():
            work.close()
            raise SessionClosed(CLOSED)
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        try:
            await asyncio.wait({task, self._holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            return task.result()
        if self._holding.done() and not self._holding.cancelled():
            self._holding.result()  # raises why
        raise SessionClosed(CLOSED)

    async def close(self) -> None:
        """Cancel what runs, and return once engines, connections and the ledger are closed. What goes wrong
        with that is logged."""
        self._closing.set()
        for task in tuple(self._works):
            task.cancel()
        await self._ended()
        if self._holding is not None and not self._holding.cancelled() and (exc := self._holding.exception()):
            LOG.warning("the session ended with an error: %s", exc)

    async def _ended(self) -> None:
        if self._holding is not None:
            with CancelScope(shield=True):
                await asyncio.wait({self._holding})

    async def _hold(self, sizes: Collection[Size], opened: asyncio.Event) -> None:
        async with open_edge(
            self._bundle, sizes, self._options, LOG.warning, films=self._films
        ) as self._edge:
            opened.set()
            await self._closing.wait()
            if self._works:  # they are cancelled, and end before what they use
                await asyncio.wait(tuple(self._works))
