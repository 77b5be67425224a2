"""An event loop whose clock shows no time of this machine."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits for nothing but `threads` that work: it reports how long it would have waited."""

    skipped_s = 0.0
    threads: CapacityLimiter | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0 and self.threads is not None and self.threads.borrowed_tokens:
            return super().select()
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("every task waits, and none of them for a moment")
            self.skipped_s += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0, stands still while anything can go on, and then jumps to what is waited for.

    Threads can go on as well, once `watch_threads` was called.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.skipped_s

    async def watch_threads(self) -> None:
        """Count those of anyio.to_thread from here on."""
        self._virtual.threads = to_thread.current_default_thread_limiter()

    def stall(self, seconds: float) -> None:
        """As if a busy machine had not let this process run for so long."""
        self._virtual.skipped_s += seconds


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run; tasks that are left are cancelled."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(_cancel_others())
        loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
