"""Tiles that wait together run together: a bounded queue in front of the window engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import anyio
import numpy as np

from server.model.statistics import Statistics
from stages.engines.thread import EngineThread
from stages.tensors import Array


class ServiceUnavailable(Exception):
    """Answered 503: it cannot be served now. `retry_after_s` is when to retry, `reason` is counted."""

    reason = "unavailable"

    def __init__(self, text: str, retry_after_s: float) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class QueueFull(ServiceUnavailable):
    """There is no room for more tiles."""

    reason = "queue_full"

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s", retry_after_s)


class Stopping(ServiceUnavailable):
    """The site stops before these tiles are done."""

    reason = "stopping"

    def __init__(self) -> None:
        super().__init__("this site is stopping; use another one", 1.0)


class Stalled(ServiceUnavailable):
    """An engine call does not come back."""

    reason = "stalled"

    def __init__(self, stall_s: float) -> None:
        super().__init__(f"the engine of this site has not answered for {stall_s:g} s; use another one", 10.0)


STALL_S = 60.0  # for one engine call


class Turns:
    """Turns of the batchers that share an engine thread: each runs one batch, then the next one does.

    An engine call of more than `stall_s` is a stall. It lasts until that call comes back, if it ever does.
    """

    def __init__(self, stall_s: float = STALL_S) -> None:
        self.turn = asyncio.Lock()
        self.stall_s = stall_s
        self.stalled = False
        self._on_stall: list[Callable[[], None]] = []

    def on_stall(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when a stall begins."""
        self._on_stall.append(tell)

    @contextlib.contextmanager
    def engine_call(self) -> Iterator[None]:
        """One engine call is made in the block."""
        timer = asyncio.get_running_loop().call_later(self.stall_s, self._stall)
        try:
            yield
        finally:
            timer.cancel()
            self.stalled = False

    def _stall(self) -> None:
        self.stalled = True
        for tell in self._on_stall:
            tell()


@dataclass(eq=False)
class _PendingRequest:
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    arrived: float = field(default_factory=time.perf_counter)
    done: asyncio.Future[dict[str, Array]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    tiles: int = field(init=False)

    def __post_init__(self) -> None:
        self.tiles = len(next(iter(self.inputs.values())))


class Batcher:
    """Runs requests in order of arrival, several in one engine call when they wait together.

    `max_batch` bounds the tiles of several requests in one engine call, and `max_alone`, if it is more, those
    of one request, which are answered together: a larger one takes several calls. `max_waiting` bounds the
    tiles in the queue: a request that finds no room is refused at once with QueueFull; an empty queue has
    room for any one request. Serves inside `async with`, until `stop`.

    Batchers of one engine thread share `turns`; requests that come during another's turn join the next
    batch. While the engine is stalled, requests that wait or run, and new ones, fail with Stalled.
    """

    def __init__(
        self,
        engines: EngineThread,
        stage: str,
        max_batch: int,
        max_waiting: int,
        turns: Turns | None = None,
        max_alone: int = 0,
    ) -> None:
        self.statistics = Statistics()
        self._engines = engines
        self._stage = stage
        self._max_batch = max_batch
        self._max_call = max(max_batch, max_alone)
        self.max_waiting = max_waiting
        self._turns = turns or Turns()
        self._turns.on_stall(self._fail_stalled)
        self._queue: deque[_PendingRequest] = deque()
        self._running: list[_PendingRequest] = []
        self._waiting = 0
        self._stopped = False
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._serve(), name="batcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._task is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()  # it crashed: say so

    @property
    def waiting(self) -> int:
        """Tiles in the queue, not counting those in the engine."""
        return self._waiting

    @property
    def pending(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def stalled(self) -> bool:
        """Whether an engine call of this engine thread does not come back."""
        return self._turns.stalled

    def stop(self) -> None:
        """Take no more tiles; requests that wait or run fail with Stopping. Calling it again does nothing.

        An engine call under way goes on by itself; closing the EngineThread waits for it.
        """
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        self._fail_all(Stopping())

    def _fail_stalled(self) -> None:
        self._fail_all(Stalled(self._turns.stall_s))

    def _fail_all(self, error: ServiceUnavailable) -> None:
        self._fail([*self._running, *self._queue], error)
        self._queue.clear()
        self._waiting = 0

    async def submit(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs for these tiles. Raises QueueFull, Stopping, Stalled, or what the engine raised.

        Cancelling it frees the tiles' place in the queue at once.
        """
        if self._stopped:
            raise Stopping
        if self.stalled:
            raise Stalled(self._turns.stall_s)
        request = _PendingRequest(inputs, outputs)
        if self._waiting and self._waiting + request.tiles > self.max_waiting:
            self.statistics.refused += request.tiles
            raise QueueFull(self._expected_wait_s())
        self._queue.append(request)
        self._waiting += request.tiles
        self._arrived.set()
        try:
            return await request.done
        finally:
            if request in self._queue:  # only when cancelled: a request is done after it left the queue
                self._queue.remove(request)
                self._waiting -= request.tiles

    async def _serve(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                async with self._turns.turn:
                    self._running = self._take()
                    if self._running:
                        await self._run_batch(self._running)
                        self._running = []
        finally:
            self.stop()  # also after a crash: nothing may wait for a batcher that no longer runs

    def _take(self) -> list[_PendingRequest]:
        """The requests of the next engine call."""
        requests: list[_PendingRequest] = []
        tiles = 0
        while self._queue and (not requests or tiles + self._queue[0].tiles <= self._max_batch):
            request = self._queue.popleft()
            self._waiting -= request.tiles
            if not request.done.done():  # a client that disconnected in this very step is still in the queue
                requests.append(request)
                tiles += request.tiles
                self.statistics.queue_s += time.perf_counter() - request.arrived
        if not self._queue:
            self._arrived.clear()
        return requests

    async def _run_batch(self, requests: Sequence[_PendingRequest]) -> None:
        before_s = self.statistics.engine_s
        try:
            results = await self._infer(requests)
            self.statistics.infer_s += (self.statistics.engine_s - before_s) * len(requests)
            start = 0
            for request in requests:
                stop = start + request.tiles
                if not request.done.done():  # else its client has disconnected
                    request.done.set_result({name: results[name][start:stop] for name in request.outputs})
                start = stop
        except Exception as exc:  # the engine's error is answered to these clients, the queue goes on
            self._fail(requests, exc)

    async def _infer(self, requests: Sequence[_PendingRequest]) -> dict[str, Array]:
        """Every output that is asked for, in the order of the requests; fewer rows once all clients left."""
        inputs = _concatenated([request.inputs for request in requests])
        names = sorted({name for request in requests for name in request.outputs})
        parts = []
        for start in range(0, sum(request.tiles for request in requests), self._max_call):
            if all(request.done.done() for request in requests):
                break
            rows = {name: array[start : start + self._max_call] for name, array in inputs.items()}
            parts.append(await self._timed(rows, names))
        return _concatenated(parts)

    async def _timed(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """One engine call, counted."""
        started = time.perf_counter()
        with self._turns.engine_call():
            results = await self._engines.infer(self._stage, inputs, outputs)
        self.statistics.engine_s += time.perf_counter() - started
        self.statistics.batch_sizes[len(next(iter(inputs.values())))] += 1
        return results

    @staticmethod
    def _fail(requests: Iterable[_PendingRequest], error: Exception) -> None:
        for request in requests:
            if not request.done.done():
                request.done.set_exception(error)

    def _expected_wait_s(self) -> float:
        """Time until the tiles now waiting are done, from the speed so far."""
        done = self.statistics
        per_tile = done.engine_s / done.tiles if done.tiles else 0.1
        return max(0.1, per_tile * self._waiting)


def _concatenated(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    if len(parts) == 1:
        return dict(parts[0])  # the usual case, without a copy
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
