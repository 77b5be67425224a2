"""An event loop on a thread of its own, on which a program without one has coroutines run.

The thread is a daemon, as are those that it starts: a session that was never closed keeps no process alive.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from runtime.api.errors import SessionClosed
from runtime.api.held_edge import CLOSED

T = TypeVar("T")

END_S = 10.0  # that closing may take at most before nobody waits any more

_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


class LoopThread:
    """Runs coroutines of callers on other threads, any number at once, until `end`. `finish` is what its loop
    does last."""

    def __init__(self, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._finish = finish
        self._process = os.getpid()
        self._calls: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._ended = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pedsam session", daemon=True)
        self._failure: BaseException | None = None
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:  # no loop can be had, as where no more files may be open
            raise self._failure
        _running.add(self)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine gives. Whatever interrupts the caller, as Ctrl-C does, cancels it.

        Raises SessionClosed after `end`, and in a process that was forked off: its copy has no such thread.
        """
        if os.getpid() != self._process:
            raise SessionClosed("the session belongs to the process that opened it; open one in each process")
        with self._lock:
            if self._ended:
                raise SessionClosed(CLOSED)
            coroutine = work()
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            except RuntimeError as exc:  # the loop has ended since
                coroutine.close()
                raise SessionClosed(CLOSED) from exc
            self._calls.add(future)
        try:
            return future.result()
        except CancelledError as exc:
            raise SessionClosed(CLOSED) from exc
        except BaseException:
            future.cancel()
            raise
        finally:
            self._calls.discard(future)

    def soon(self, action: Callable[[], None]) -> None:
        """Have something done on the loop, if it still runs; never waits, so that a finaliser may call it."""
        if os.getpid() == self._process and not self._ended:
            self._loop.call_soon_threadsafe(action)

    def end_soon(self) -> None:
        """Have the loop finish; never waits."""
        if os.getpid() != self._process or self._ended:
            return
        self._ended = True
        self._loop.call_soon_threadsafe(self._stop.set)

    def end(self) -> None:
        """Have the loop finish, and wait for that."""
        self.end_soon()
        if os.getpid() == self._process and threading.current_thread() is not self._thread:
            self._thread.join(END_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:
            self._failure = exc
        finally:
            self._ended = True
            self._ready.set()
            with self._lock:
                for future in self._calls:
                    future.cancel()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        await self._finish()


@atexit.register
def _end_all() -> None:
    for each in tuple(_running):
        each.end()
