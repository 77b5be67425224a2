"""Tiles that wait together run together; nobody waits in vain and nobody waits for somebody who left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.model.batcher import Batcher, QueueFull, Stopping
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.tensors import Array
from tests.support.fakes import FakeEngine, Gate, answers, tiles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

Answer = dict[str, Array]


@asynccontextmanager
async def batching(
    engine: FakeEngine, max_batch: int = 8, max_waiting: int = 100, max_alone: int = 0
) -> AsyncIterator[Batcher]:
    async with (
        EngineThread({"window": lambda: engine}) as engines,
        Batcher(engines, "window", max_batch, max_waiting, max_alone=max_alone) as batcher,
    ):
        yield batcher


class Busy:
    """A batcher whose engine is held in a call for window 0, so that what comes now has to wait."""

    def __init__(self, max_batch: int = 8, max_waiting: int = 100, max_alone: int = 0) -> None:
        self.gate = Gate()
        self.engine = FakeEngine(self.gate)
        self._batching = batching(self.engine, max_batch, max_waiting, max_alone)

    async def __aenter__(self) -> Busy:
        self.batcher = await self._batching.__aenter__()
        self.first = submit(self.batcher, 0)
        await self.gate.entered.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.gate.open()
        await asyncio.wait([self.first])
        await self._batching.__aexit__(None, None, None)

    async def queue(self, *windows: int, outputs: tuple[str, ...] = ("embedding",)) -> asyncio.Task[Answer]:
        """A job that has its place in the queue, or was refused, when this returns."""
        task = submit(self.batcher, *windows, outputs=outputs)
        await asyncio.sleep(0)
        return task


def submit(
    batcher: Batcher, *windows: int, outputs: tuple[str, ...] = ("embedding",)
) -> asyncio.Task[Answer]:
    return asyncio.create_task(batcher.submit(tiles(*windows), outputs))


def assert_answered(answer: Answer, *windows: int, outputs: tuple[str, ...] = ("embedding",)) -> None:
    expected = answers(tiles(*windows))
    assert list(answer) == list(outputs)
    for name in outputs:
        assert answer[name].tolist() == expected[name].tolist()


# Batches


async def test_a_job_gets_its_own_rows() -> None:
    async with batching(FakeEngine()) as batcher:
        assert_answered(await submit(batcher, 3, 1, 2), 3, 1, 2)


async def test_tiles_that_wait_run_together_in_order_of_arrival() -> None:
    async with Busy() as busy:
        jobs = [await busy.queue(5), await busy.queue(3, 4), await busy.queue(1)]
        assert busy.batcher.waiting == 4
        busy.gate.open()
        for job, windows in zip(jobs, [(5,), (3, 4), (1,)], strict=True):
            assert_answered(await job, *windows)
    assert busy.engine.batches == [(0,), (5, 3, 4, 1)]
    assert busy.batcher.statistics.tiles == 5
    assert busy.batcher.statistics.batches == 2


async def test_each_gets_the_outputs_it_asked_for_and_the_engine_makes_no_others() -> None:
    async with Busy() as busy:
        one = await busy.queue(1, outputs=("embedding",))
        two = await busy.queue(2, outputs=("embedding_q8",))
        busy.gate.open()
        assert_answered(await one, 1, outputs=("embedding",))
        assert_answered(await two, 2, outputs=("embedding_q8",))
    assert busy.engine.calls[-2].outputs == ("embedding", "embedding_q8")


async def test_no_engine_call_is_larger_than_the_largest_batch() -> None:
    async with Busy(max_batch=4) as busy:
        jobs = [await busy.queue(*windows) for windows in ((1, 2), (3, 4), (5,), (6, 7, 8, 9))]
        busy.gate.open()
        await asyncio.gather(*jobs)
    assert busy.engine.batches == [(0,), (1, 2, 3, 4), (5,), (6, 7, 8, 9)]


async def test_a_job_larger_than_the_largest_batch_takes_several_calls() -> None:
    engine = FakeEngine()
    async with batching(engine, max_batch=2) as batcher:
        assert_answered(await submit(batcher, 4, 3, 2, 1, 0), 4, 3, 2, 1, 0)
    assert engine.batches == [(4, 3), (2, 1), (0,)]


async def test_tiles_of_one_job_run_together_where_those_of_several_would_not() -> None:
    """They are answered together, so that several calls would gain nobody anything."""
    async with Busy(max_batch=2, max_alone=4) as busy:
        jobs = [await busy.queue(*windows) for windows in ((1, 2, 3), (4, 5), (6,), (7,), (8, 9, 10, 11, 12))]
        busy.gate.open()
        await asyncio.gather(*jobs)
    assert busy.engine.batches == [(0,), (1, 2, 3), (4, 5), (6, 7), (8, 9, 10, 11), (12,)]


# A bounded queue


async def test_what_finds_no_room_is_refused_at_once() -> None:
    async with Busy(max_waiting=3) as busy:
        kept = [await busy.queue(1, 2), await busy.queue(3)]
        with pytest.raises(QueueFull, match=r"the queue is full; try again in 0\.3 s") as caught:
            await busy.batcher.submit(tiles(4), ["embedding"])
        assert caught.value.retry_after_s == pytest.approx(0.3)
        assert busy.batcher.statistics.refused == 1
        assert busy.batcher.waiting == 3
        busy.gate.open()
        await asyncio.gather(*kept)
        assert busy.batcher.waiting == 0
        assert_answered(await busy.batcher.submit(tiles(4), ["embedding"]), 4)


async def test_an_empty_queue_has_room_for_any_one_job() -> None:
    async with Busy(max_waiting=1) as busy:
        large = await busy.queue(1, 2, 3)
        small = await busy.queue(4)
        busy.gate.open()
        assert_answered(await large, 1, 2, 3)
        with pytest.raises(QueueFull):
            await small


# Senders that leave


async def test_a_sender_that_leaves_the_queue_frees_its_place_at_once() -> None:
    async with Busy(max_waiting=2) as busy:
        gone = await busy.queue(1, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert busy.batcher.waiting == 0
        stays = await busy.queue(3, 4)
        busy.gate.open()
        assert_answered(await stays, 3, 4)
    assert busy.engine.batches == [(0,), (3, 4)]


async def test_a_sender_that_leaves_in_the_step_its_turn_comes_does_not_run() -> None:
    engine = FakeEngine()
    async with batching(engine) as batcher:
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        await asyncio.sleep(0)  # their jobs are in the queue, the batcher has not run yet
        gone.cancel()
        assert_answered(await stays, 2)
        assert gone.cancelled()
        assert batcher.waiting == 0
    assert engine.batches == [(2,)]


async def test_a_sender_that_leaves_during_its_call_costs_the_others_nothing() -> None:
    async with Busy() as busy:
        stays = await busy.queue(1)
        busy.first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy.first
        busy.gate.open()
        assert_answered(await stays, 1)
    assert busy.engine.batches == [(0,), (1,)]


async def test_calls_nobody_waits_for_are_not_begun() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with batching(engine, max_batch=1) as batcher:
        gone = submit(batcher, 1, 2, 3)
        await gate.entered.wait()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.open()
        assert_answered(await submit(batcher, 4), 4)
    assert engine.batches == [(1,), (4,)]


# Failures


async def test_an_engines_error_belongs_to_the_senders_of_that_call() -> None:
    engine = FakeEngine(failures={"infer": EngineError("out of memory")})
    async with batching(engine) as batcher:
        with pytest.raises(EngineError, match="out of memory"):
            await submit(batcher, 1)
        engine.failures.clear()
        assert_answered(await submit(batcher, 2), 2)
        assert not batcher.stopped


async def test_an_engine_that_leaves_out_an_output_fails_that_call_alone() -> None:
    class Forgetful(FakeEngine):
        def _infer(self, feeds, outputs):  # type: ignore[no-untyped-def]
            return {} if 1 in feeds["index"] else super()._infer(feeds, outputs)

    async with batching(Forgetful()) as batcher:
        with pytest.raises(KeyError):
            await submit(batcher, 1)
        assert_answered(await submit(batcher, 2), 2)


class Crash(BaseException):
    """What no handler of errors expects."""


async def test_nobody_waits_for_a_batcher_that_crashed() -> None:
    gate = Gate()
    engine = FakeEngine(gate, failures={"infer": Crash()})

    async def crash() -> None:
        async with batching(engine) as batcher:
            running = submit(batcher, 1)
            await gate.entered.wait()
            waiting = submit(batcher, 2)
            gate.open()
            for job in (running, waiting, submit(batcher, 3)):
                with pytest.raises(Stopping):
                    await job
            assert batcher.stopped

    with pytest.raises(Crash):
        await crash()


# Stopping


async def test_stopping_fails_what_waits_and_runs_and_takes_nothing_more() -> None:
    async with Busy() as busy:
        waiting = await busy.queue(1, 2)
        busy.batcher.stop()
        busy.batcher.stop()
        for job in (busy.first, waiting, submit(busy.batcher, 3)):
            with pytest.raises(Stopping, match="this site is stopping; use another one"):
                await job
        assert busy.batcher.waiting == 0
    assert busy.engine.batches == [(0,)]


async def test_leaving_the_block_stops() -> None:
    async with batching(FakeEngine()) as batcher:
        pass
    assert batcher.stopped
    with pytest.raises(Stopping):
        await batcher.submit(tiles(1), ["embedding"])
