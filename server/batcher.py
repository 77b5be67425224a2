"""Tiles that wait together run together: a bounded queue in front of the window engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.engine import EngineThread
from stages.tensors import Array


class QueueFull(Exception):
    """No room for more tiles; `retry_after_s` is when some should be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


@dataclass
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
    """Counts since the start; `engine_s` is time spent in the engine."""

    tiles: int = 0
    batches: int = 0
    refused: int = 0
    engine_s: float = 0.0


class Batcher:
    """Runs jobs in order of arrival, several in one engine call when they wait together.

    `max_batch` bounds the tiles of one call, `max_waiting` the tiles in the queue: a job that finds no room
    is refused at once with QueueFull.
    """

    def __init__(self, engines: EngineThread, stage: str, max_batch: int, max_waiting: int) -> None:
        self.statistics = Statistics()
        self._engines = engines
        self._stage = stage
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._queue: deque[_Job] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Tiles in the queue, not counting those in the engine."""
        return self._waiting

    async def submit(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs for these tiles. Raises QueueFull, or what the engine raised."""
        job = _Job(inputs, outputs)
        if self._waiting and self._waiting + job.tiles > self._max_waiting:
            self.statistics.refused += job.tiles
            raise QueueFull(self._expected_wait_s())
        self._queue.append(job)
        self._waiting += job.tiles
        self._arrived.set()
        return await job.done

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                if jobs := self._take():
                    await self._run_batch(jobs)
        finally:
            for job in self._queue:
                job.done.cancel()

    def _take(self) -> list[_Job]:
        """The jobs of the next engine call; those whose sender has gone are dropped."""
        jobs: list[_Job] = []
        tiles = 0
        while self._queue and (not jobs or tiles + self._queue[0].tiles <= self._max_batch):
            job = self._queue.popleft()
            self._waiting -= job.tiles
            if not job.done.done():
                jobs.append(job)
                tiles += job.tiles
        if not self._queue:
            self._arrived.clear()
        return jobs

    async def _run_batch(self, jobs: Sequence[_Job]) -> None:
        names = {name for job in jobs for name in job.outputs}
        started = asyncio.get_running_loop().time()
        try:
            results = await self._engines.infer(
                self._stage, _joined([job.inputs for job in jobs]), sorted(names)
            )
        except Exception as exc:  # the engine's error belongs to the senders, the queue goes on
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(exc)
            return
        self.statistics.engine_s += asyncio.get_running_loop().time() - started
        self.statistics.batches += 1
        start = 0
        for job in jobs:
            stop = start + job.tiles
            self.statistics.tiles += job.tiles
            if not job.done.done():
                job.done.set_result({name: results[name][start:stop] for name in job.outputs})
            start = stop

    def _expected_wait_s(self) -> float:
        """Time until the tiles now waiting are done, from the speed so far."""
        done = self.statistics
        per_tile = done.engine_s / done.tiles if done.tiles else 0.1
        return max(0.1, per_tile * self._waiting)


def _joined(inputs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    if len(inputs) == 1:
        return dict(inputs[0])
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
