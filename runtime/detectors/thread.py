"""The thread that detectors look on, one frame after another.

A detector of the user's own may hang. So whoever waits here waits for a limited time, and nobody waits for
the thread itself to end: it keeps no process alive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_GRACE_S = 1.0  # that a look under way has to end, when nobody needs it any more


class Overdue(Exception):
    """A detector takes too long: the one that is called `name`, for `seconds` so far."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"{name} takes {seconds:.1f} s")
        self.name = name
        self.seconds = seconds


class LookThread:
    """Runs calls in the order in which they come. A call says with `began` which detector it asks next, and
    each of those has `limit_s`."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._asked = ("", time.monotonic())  # the detector that was asked last, and when
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def began(self, name: str) -> None:
        """A detector is asked from now on. To be called on the thread."""
        self._asked = name, time.monotonic()

    async def open(self, call: Callable[[], T]) -> T:
        """What a call gives on the thread, however long it takes."""
        return await asyncio.wrap_future(self._submit(call))

    async def look(self, call: Callable[[], T]) -> T:
        """What a call gives on the thread.

        Raises Overdue once a detector, asked by this call or by one before it, has taken `limit_s` of the
        time that this call has waited. A call that has not begun by then never begins.
        """
        came_s = time.monotonic()
        submitted = self._submit(call)
        future = asyncio.wrap_future(submitted)
        try:
            while not future.done():
                name, asked_s = self._asked
                now_s = time.monotonic()
                left_s = max(asked_s, came_s) + self._limit_s - now_s
                if left_s <= 0:
                    raise Overdue(name, now_s - asked_s)
                await asyncio.wait([future], timeout=left_s)
            return future.result()
        finally:
            submitted.cancel()

    def close(self) -> None:
        """Let the thread end after the calls that it has, waiting a moment for that. It blocks."""
        self._calls.put(None)
        self._thread.join(_GRACE_S)

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _run(self) -> None:
        while (next_call := self._calls.get()) is not None:
            _finish(*next_call)
            del next_call  # a thread that waits holds on to no frame


def _finish(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # whatever it is belongs to who called
        future.set_exception(exc)
    else:
        future.set_result(result)
