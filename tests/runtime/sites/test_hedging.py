"""The first of two answers, where the second is asked only if the first is late."""

from __future__ import annotations

import anyio
import pytest

from runtime.sites.hedging import first_answer

pytestmark = pytest.mark.anyio


async def never() -> str | None:
    await anyio.sleep_forever()
    return None


async def nothing() -> str | None:
    return None


async def good() -> str | None:
    return "good"


async def test_the_second_is_asked_when_the_first_is_late_and_the_late_one_is_cancelled() -> None:
    cancelled = []

    async def late() -> str | None:
        try:
            return await never()
        except anyio.get_cancelled_exc_class():
            cancelled.append(True)
            raise

    with anyio.fail_after(60):
        assert await first_answer(late, good, 0.0) == "good"
    assert cancelled == [True]


@pytest.mark.parametrize("first", [good, nothing])
async def test_the_second_is_not_asked_when_the_first_is_in_time(first: object) -> None:
    async def forbidden() -> str | None:
        raise AssertionError("asked")

    with anyio.fail_after(60):
        answer = await first_answer(first, forbidden, 3600.0)  # type: ignore[arg-type]
    assert answer == (None if first is nothing else "good")


async def test_a_second_that_fails_leaves_the_first_its_time() -> None:
    release, asked = anyio.Event(), anyio.Event()

    async def slow() -> str | None:
        await release.wait()
        return "slow"

    async def failing() -> str | None:
        asked.set()
        return None

    async with anyio.create_task_group() as tasks:

        async def let_go() -> None:
            await asked.wait()
            release.set()

        tasks.start_soon(let_go)
        with anyio.fail_after(60):
            assert await first_answer(slow, failing, 0.0) == "slow"
