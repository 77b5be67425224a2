"""The one thread that owns engines."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from stages.engines.engine import Engine
from stages.errors import EngineError
from stages.tensors import Array

T = TypeVar("T")

# Order of a call that may wait for every frame, such as a check of results that were used already.
BACKGROUND: Final = 1 << 62
_CLOSING: Final = math.inf


class EngineThread:
    """Opens, runs and closes named engines on one thread of its own.

    Device contexts belong to a thread, and engines of one device gain nothing from running at once. Of the
    calls that wait the one with the lowest `order` is next, and of equal ones the first to come: whoever
    works on frames gives their numbers, so that an older frame goes before a newer one.
    """

    def __init__(self, engines: Mapping[str, Callable[[], Engine]]) -> None:
        self._factories = engines
        self._engines: dict[str, Engine] = {}
        self._calls_of: Counter[str] = Counter()
        self._seconds_of: defaultdict[str, float] = defaultdict(float)
        self._calls = _CallQueue()

    async def __aenter__(self) -> EngineThread:
        threading.Thread(target=self._calls.run, name="engines", daemon=True).start()
        try:
            await self._call(self._open_all, 0)
        except BaseException:
            await self._shut_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._shut_down()

    def __contains__(self, name: str) -> bool:
        return name in self._engines

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return len(self._calls)

    def engine(self, name: str) -> Engine:
        """The engine itself, for what it says of itself; run it through `infer` only."""
        return self._engines[name]

    def total_s(self, name: str) -> float:
        """Seconds that calls of this name have taken so far, without their waiting; 0 of none."""
        return self._seconds_of.get(name, 0.0)

    def mean_s(self, name: str) -> float:
        """Seconds that a call of this name took, on average of all so far; 0 of none."""
        return self._seconds_of[name] / self._calls_of[name] if self._calls_of[name] else 0.0

    async def infer(
        self, name: str, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None, *, order: int = 0
    ) -> dict[str, Array]:
        """Engine.infer on the engine thread, calls of a lower `order` first.

        Cancelling removes a call that has not begun; one that has still finishes, and its result is dropped.
        """
        if name not in self._engines:
            raise EngineError(f"no engine {name!r} is open here, only {sorted(self._engines)}")
        engine = self._engines[name]
        return await self.run(lambda: engine.infer(feeds, outputs), name, order=order)

    async def run(self, function: Callable[[], T], name: str, *, order: int = 0) -> T:
        """Run something on the engine thread, calls of a lower `order` first; cancelling is as of `infer`.

        It counts as a call of `name`.
        """

        def timed() -> T:
            started_s = time.perf_counter()
            result = function()
            self._calls_of[name] += 1
            self._seconds_of[name] += time.perf_counter() - started_s
            return result

        return await self._call(timed, order)

    async def _call(self, function: Callable[[], T], order: float) -> T:
        return await asyncio.wrap_future(self._calls.put(function, order))

    def _open_all(self) -> None:
        for name, factory in self._factories.items():
            engine = factory()
            engine.open()
            self._engines[name] = engine

    def _close_all(self) -> None:
        engines, self._engines = self._engines, {}
        with contextlib.ExitStack() as stack:  # one failing close does not skip the rest
            for engine in engines.values():
                stack.callback(engine.close)

    async def _shut_down(self) -> None:
        """Close the engines after the calls that were made by now; cancelling waits too."""
        import anyio  # here, since an exporter runs engines without a loop and does not install it

        closing = asyncio.ensure_future(self._call(self._close_all, _CLOSING))
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):  # holds off cancel scopes; the loop holds off Task.cancel
            while not closing.done():
                try:
                    await asyncio.wait([closing])
                except asyncio.CancelledError as exc:
                    cancelled = exc
        self._calls.stop()
        if cancelled is not None:
            raise cancelled from closing.exception()
        closing.result()


@dataclass(order=True)
class _Call(Generic[T]):
    """A call that waits: the lowest order first, of equal ones the one that came first."""

    order: float
    number: int
    function: Callable[[], T] = field(compare=False)
    future: Future[T] = field(compare=False, default_factory=Future)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as exc:  # whatever it is belongs to who called
            self.future.set_exception(exc)
        else:
            self.future.set_result(result)


class _CallQueue:
    """Calls in their order, for one thread to run. It has no bound of its own: every caller waits for its
    call, so that there are at most as many as there are callers."""

    def __init__(self) -> None:
        self._heap: list[_Call[Any]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._heap)

    def put(self, function: Callable[[], T], order: float) -> Future[T]:
        """Have a call run; cancelling the future before that removes it."""
        with self._changed:
            call = _Call(order, next(self._numbers), function)
            heapq.heappush(self._heap, call)
            self._changed.notify()
        call.future.add_done_callback(lambda future: self._remove(call) if future.cancelled() else None)
        return call.future

    def run(self) -> None:
        """Run calls as they come, on the calling thread, until `stop` and nothing is left."""
        while self._run_next():
            pass

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run_next(self) -> bool:
        """A method of its own, so that a thread that waits holds on to no call."""
        call = self._next()
        if call is not None:
            call.run()
        return call is not None

    def _next(self) -> _Call[Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._heap or self._stopped)
            return heapq.heappop(self._heap) if self._heap else None

    def _remove(self, call: _Call[Any]) -> None:
        with self._changed, contextlib.suppress(ValueError):  # it was taken in this very moment
            self._heap.remove(call)
            heapq.heapify(self._heap)
