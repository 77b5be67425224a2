"""The one thread that owns engines: who runs where, what is undone, what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import anyio
import pytest

from stages.engines.engine import Engine
from stages.engines.thread import BACKGROUND, EngineThread
from stages.errors import EngineError
from stages.tensors import Array
from tests.support.fakes import Call, FakeEngine, Gate, answers, tiles, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


def factory(calls: list[Call], **failures: BaseException) -> Callable[[], Engine]:
    """Makes a fake engine and notes that it was made."""

    def make() -> Engine:
        calls.append(Call("make", threading.get_ident()))
        return FakeEngine(failures=failures, calls=calls)

    return make


def what(calls: list[Call]) -> list[str]:
    return [call.what for call in calls]


async def test_everything_happens_on_one_thread_that_is_not_the_loops() -> None:
    calls: list[Call] = []
    async with EngineThread({"a": factory(calls), "b": factory(calls)}) as engines:
        await asyncio.gather(*(engines.infer(name, tiles(1), ["scale"]) for name in "abab"))
    assert what(calls) == ["make", "open", "make", "open", *["infer"] * 4, "close", "close"]
    assert len({call.thread for call in calls}) == 1
    assert calls[0].thread != threading.get_ident()


async def test_engines_are_reached_by_name() -> None:
    async with EngineThread({"a": FakeEngine}) as engines:
        assert "a" in engines
        assert "b" not in engines
        assert engines.engine("a").backend == "fake 1.0 on nothing"
        results = await engines.infer("a", tiles(1, 2))
        assert results["embedding"].tolist() == answers(tiles(1, 2))["embedding"].tolist()
        with pytest.raises(EngineError, match=r"no engine 'b' is open here, only \['a'\]"):
            await engines.infer("b", tiles(1))
    with pytest.raises(EngineError, match=r"no engine 'a' is open here, only \[\]"):
        await engines.infer("a", tiles(1))


async def test_the_mean_time_of_each_engines_calls_is_known() -> None:
    gate = Gate()
    async with EngineThread({"a": lambda: FakeEngine(gate), "b": FakeEngine}) as engines:
        assert engines.mean_s("a") == 0
        call = asyncio.create_task(engines.infer("a", tiles(1)))
        await gate.entered.wait()
        await asyncio.sleep(0.1)
        gate.open()
        await call
        once = engines.mean_s("a")
        for _ in range(9):
            await engines.infer("a", tiles(1))
        assert 0 < engines.mean_s("a") < once
        assert engines.mean_s("b") == 0


async def test_an_engines_error_reaches_its_caller_and_nobody_else() -> None:
    async with EngineThread({"a": FakeEngine}) as engines:
        with pytest.raises(EngineError, match="no output"):
            await engines.infer("a", tiles(1), ["mask"])
        assert await engines.infer("a", tiles(1), ["scale"])


async def test_engines_close_in_reverse_order_and_one_failure_skips_nothing() -> None:
    order: list[str] = []

    class Named(FakeEngine):
        def __init__(self, name: str, error: Exception | None = None) -> None:
            super().__init__()
            self._name, self._error = name, error

        def _deactivate(self) -> None:
            order.append(self._name)
            if self._error:
                raise self._error

    factories = {
        "a": lambda: Named("a"),
        "b": lambda: Named("b", EngineError("b is stuck")),
        "c": lambda: Named("c"),
    }
    with pytest.raises(EngineError, match="b is stuck"):
        async with EngineThread(factories):
            pass
    assert order == ["c", "b", "a"]


@pytest.mark.parametrize("failing", ["open", "make"])
async def test_opening_that_fails_half_way_is_undone(failing: str) -> None:
    calls: list[Call] = []

    def broken() -> Engine:
        raise EngineError("no device")

    second = broken if failing == "make" else factory(calls, open=EngineError("no device"))
    threads = threading.active_count()
    with pytest.raises(EngineError, match="no device"):
        async with EngineThread({"a": factory(calls), "b": second, "c": factory(calls)}):
            pytest.fail("the block must not run")
    assert what(calls) == ["make", "open", *(["make", "open"] if failing == "open" else []), "close"]
    await until(lambda: threading.active_count() <= threads)


async def test_a_cancelled_call_drops_its_result_and_the_engine_goes_on() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with EngineThread({"a": lambda: engine}) as engines:
        call = asyncio.create_task(engines.infer("a", tiles(1)))
        await gate.entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.open()
        assert (await engines.infer("a", tiles(2), ["scale"]))["scale"].max() == 3
    assert engine.batches == [(1,), (2,)]


async def test_a_call_cancelled_before_its_turn_is_removed_with_what_it_holds() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with EngineThread({"a": lambda: engine}) as engines:
        running = asyncio.create_task(engines.infer("a", tiles(1)))
        await gate.entered.wait()
        feeds = tiles(2)
        tile = weakref.ref(feeds["tile"])
        waiting = asyncio.create_task(engines.infer("a", feeds))
        del feeds
        await until(lambda: engines.waiting == 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert engines.waiting == 0
        del waiting
        gc.collect()  # future and callback refer to each other
        assert tile() is None
        gate.open()
        await running
    assert engine.batches == [(1,)]


async def test_of_the_calls_that_wait_the_lowest_order_runs_first_and_background_work_last() -> None:
    """Whatever they came in; calls of one order run as they came."""
    gate = Gate()
    calls: list[Call] = []
    first, second = FakeEngine(gate, calls=calls), FakeEngine(calls=calls)
    came = {1: 7, 2: 9, 3: BACKGROUND, 4: 8, 5: 7, 6: 0, 7: BACKGROUND, 8: 8}
    async with EngineThread({"a": lambda: first, "b": lambda: second}) as engines:
        running = asyncio.create_task(engines.infer("a", tiles(0), order=100))
        await gate.entered.wait()
        waiting = []
        for window, order in came.items():
            waiting.append(asyncio.create_task(engines.infer("ab"[window % 2], tiles(window), order=order)))
            await until(lambda: engines.waiting == len(waiting))
        gate.open()
        await asyncio.gather(running, *waiting)
    ran = [call.windows for call in calls if call.what == "infer"]
    assert ran == [(0,), (6,), (1,), (5,), (4,), (8,), (2,), (3,), (7,)]


async def test_engines_close_after_every_call_that_waits() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    calls = []
    async with EngineThread({"a": lambda: engine}) as engines:
        for window in (1, 2):
            calls.append(asyncio.create_task(engines.infer("a", tiles(window), order=BACKGROUND)))
        await gate.entered.wait()
        asyncio.get_running_loop().call_soon(gate.open)
    assert what(engine.calls) == ["open", "infer", "infer", "close"]
    assert len(await asyncio.gather(*calls)) == 2


async def test_closing_waits_for_the_call_under_way_however_often_it_is_cancelled() -> None:
    gate = Gate()
    engine = FakeEngine(gate)

    async def use() -> None:
        async with EngineThread({"a": lambda: engine}) as engines:
            await engines.infer("a", tiles(1))

    user = asyncio.create_task(use())
    await gate.entered.wait()
    for _ in range(3):
        user.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not user.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert what(engine.calls) == ["open", "infer", "close"]


async def test_a_cancellation_that_comes_while_engines_close_is_raised_after_they_closed() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    leaving = asyncio.Event()
    calls: list[asyncio.Task[dict[str, Array]]] = []

    async def use() -> None:
        async with EngineThread({"a": lambda: engine}) as engines:
            calls.append(asyncio.create_task(engines.infer("a", tiles(1), ["scale"])))
            await gate.entered.wait()
            leaving.set()  # and goes on to close the engine in this very step

    user = asyncio.create_task(use())
    await leaving.wait()
    user.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert what(engine.calls) == ["open", "infer", "close"]
    assert list(await calls[0]) == ["scale"]


async def test_a_cancelled_scope_is_left_only_after_the_engines_closed() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    with anyio.CancelScope() as scope:
        async with EngineThread({"a": lambda: engine}) as engines:
            call = asyncio.create_task(engines.infer("a", tiles(1), ["scale"]))
            await gate.entered.wait()
            asyncio.get_running_loop().call_soon(gate.open)
            scope.cancel()
    assert what(engine.calls) == ["open", "infer", "close"]
    assert list(await call) == ["scale"]  # made outside the scope, it has its result


async def test_cancelling_while_engines_open_closes_them() -> None:
    calls: list[Call] = []
    entered, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow() -> Engine:
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(60)
        return FakeEngine(calls=calls)

    async def use() -> None:
        async with EngineThread({"a": slow}):
            pytest.fail("the block must not run")

    user = asyncio.create_task(use())
    await entered.wait()
    user.cancel()
    await asyncio.sleep(0)
    assert not user.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert what(calls) == ["open", "close"]
