"""Tiles that wait together run together: a bounded queue in front of the window engine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from stages.engine import EngineThread
from stages.tensors import Array


class NotNow(Exception):
    """These tiles are not served now; `retry_after_s` is when to ask again, `reason` a word for counting."""

    reason = "not_now"

    def __init__(self, text: str, retry_after_s: float) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class QueueFull(NotNow):
    """There is no room for more tiles."""

    reason = "queue_full"

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s", retry_after_s)


class Stopping(NotNow):
    """The site stops before these tiles are done."""

    reason = "stopping"

    def __init__(self) -> None:
        super().__init__("this site is stopping; use another one", 1.0)


@dataclass(eq=False)
class _Job:
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    done: asyncio.Future[dict[str, Array]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def tiles(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass
class Statistics:
    """Counts since the start: `tiles` run in `batches` engine calls that took `engine_s`, tiles `refused`."""

    tiles: int = 0
    batches: int = 0
    refused: int = 0
    engine_s: float = 0.0


class Batcher:
    """Runs jobs in order of arrival, several in one engine call when they wait together.

    `max_batch` bounds the tiles of one engine call: a job of more takes several calls. `max_waiting` bounds
    the tiles in the queue: a job that finds no room is refused at once with QueueFull; an empty queue has
    room for any one job. Serves inside `async with`, until `stop`.
    """

    def __init__(self, engines: EngineThread, stage: str, max_batch: int, max_waiting: int) -> None:
        self.statistics = Statistics()
        self._engines = engines
        self._stage = stage
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._queue: deque[_Job] = deque()
        self._running: list[_Job] = []
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
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()  # it crashed: say so

    @property
    def waiting(self) -> int:
        """Tiles in the queue, not counting those in the engine."""
        return self._waiting

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Take no more tiles; jobs that wait or run fail with Stopping. Calling it again does nothing.

        An engine call under way goes on by itself; closing the EngineThread waits for it.
        """
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        self._fail([*self._running, *self._queue], Stopping())
        self._queue.clear()
        self._waiting = 0

    async def submit(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs for these tiles. Raises QueueFull, Stopping, or what the engine raised.

        Cancelling it frees the tiles' place in the queue at once.
        """
        if self._stopped:
            raise Stopping
        job = _Job(inputs, outputs)
        if self._waiting and self._waiting + job.tiles > self._max_waiting:
            self.statistics.refused += job.tiles
            raise QueueFull(self._expected_wait_s())
        self._queue.append(job)
        self._waiting += job.tiles
        self._arrived.set()
        try:
            return await job.done
        finally:
            if job in self._queue:  # only when cancelled: a job is done after it left the queue
                self._queue.remove(job)
                self._waiting -= job.tiles

    async def _serve(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._running = self._take()
                if self._running:
                    await self._run_batch(self._running)
                    self._running = []
        finally:
            self.stop()  # also after a crash: nobody may wait for a batcher that is gone

    def _take(self) -> list[_Job]:
        """The jobs of the next engine call."""
        jobs: list[_Job] = []
        tiles = 0
        while self._queue and (not jobs or tiles + self._queue[0].tiles <= self._max_batch):
            job = self._queue.popleft()
            self._waiting -= job.tiles
            if not job.done.done():  # a sender that left in this very step is still in the queue
                jobs.append(job)
                tiles += job.tiles
        if not self._queue:
            self._arrived.clear()
        return jobs

    async def _run_batch(self, jobs: Sequence[_Job]) -> None:
        try:
            results = await self._infer(jobs)
            start = 0
            for job in jobs:
                stop = start + job.tiles
                if not job.done.done():  # else its sender has gone
                    job.done.set_result({name: results[name][start:stop] for name in job.outputs})
                start = stop
        except Exception as exc:  # the engine's error belongs to the senders, the queue goes on
            self._fail(jobs, exc)

    async def _infer(self, jobs: Sequence[_Job]) -> dict[str, Array]:
        """Every output some job asks for, rows in the order of the jobs; less when all senders have gone."""
        inputs = _concatenated([job.inputs for job in jobs])
        names = sorted({name for job in jobs for name in job.outputs})
        parts = []
        for start in range(0, sum(job.tiles for job in jobs), self._max_batch):
            if all(job.done.done() for job in jobs):
                break
            rows = {name: array[start : start + self._max_batch] for name, array in inputs.items()}
            parts.append(await self._timed(rows, names))
        return _concatenated(parts)

    async def _timed(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """One engine call, counted."""
        started = time.perf_counter()
        results = await self._engines.infer(self._stage, inputs, outputs)
        self.statistics.engine_s += time.perf_counter() - started
        self.statistics.batches += 1
        self.statistics.tiles += len(next(iter(inputs.values())))
        return results

    @staticmethod
    def _fail(jobs: Iterable[_Job], error: Exception) -> None:
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)

    def _expected_wait_s(self) -> float:
        """Time until the tiles now waiting are done, from the speed so far."""
        done = self.statistics
        per_tile = done.engine_s / done.tiles if done.tiles else 0.1
        return max(0.1, per_tile * self._waiting)


def _concatenated(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    if len(parts) == 1:
        return dict(parts[0])  # the usual case, without a copy
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
