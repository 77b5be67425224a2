"""Limits a run's frames and megabits per second."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio


class Pace:
    """Waits until the next frame may be taken. `clock` gives seconds, `sleep` waits for some."""

    def __init__(
        self,
        max_fps: float | None = None,
        max_mbit: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._interval_s = 1 / max_fps if max_fps else 0.0
        self._s_per_byte = 8e-6 / max_mbit if max_mbit else 0.0
        self._clock = clock
        self._sleep = sleep
        self._total = 0
        self._next_s = clock()
        self._line_free_s = clock()

    async def wait(self) -> None:
        """Return when both limits allow another frame."""
        due_s = max(self._next_s, self._line_free_s)
        if (left_s := due_s - self._clock()) > 0:
            await self._sleep(left_s)
        self._next_s = self._clock() + self._interval_s

    def sent(self, total: int) -> None:
        """`total` bytes have been sent since the start; bandwidth that was not used is not saved up."""
        size, self._total = total - self._total, total
        self._line_free_s = max(self._line_free_s, self._clock()) + size * self._s_per_byte
