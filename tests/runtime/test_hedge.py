"""A late window is asked of a second site, only where that shows nobody anything new."""

from __future__ import annotations

import anyio
import pytest
from aiohttp import web

from runtime.dispatch import SiteState
from runtime.hedge import first_answer
from stages.bundle import Bundle
from tests.edge import Impostor, stall
from tests.runtime.test_dispatch import honest, scene

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


async def test_a_stalled_site_is_passed_over_by_another_of_its_operator(mini_bundle: Bundle) -> None:
    """Nobody sees more than before, and the site that is only slow stays in use."""
    sites = honest(mini_bundle, "abxy")
    async with scene(mini_bundle, sites, cap=5, same_operator="xy", hedge_factor=0.01) as it:
        await it.frame()
        before = it.ledger.exposed()
        clients = {client.name: client for client, _ in it.dispatcher.sites}
        clients["x"].tile_s, clients["y"].tile_s = 1e-6, 1.0  # so that x is asked first
        sites["x"].script.extend([stall] * 100)
        with anyio.fail_after(60):
            await it.frame()
        assert it.ledger.exposed() == before
        assert it.dispatcher.statistics.hedged == 5
        assert it.state("x") is SiteState.READY
        assert it.dispatcher.statistics.redispatched == 0
        assert all(client.in_flight == 0 for client in clients.values())


async def test_a_window_is_never_hedged_to_who_has_not_seen_it(mini_bundle: Bundle) -> None:
    """There is room under every cap, and still nobody else gets it: the frame waits for its site."""
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, cap=15, hedge_factor=0.0) as it:
        await it.frame()
        before = it.ledger.exposed()
        sites["b"].script.extend([late] * 3)
        await it.frame()
        assert it.dispatcher.statistics.hedged == 0
        assert it.ledger.exposed() == before


async def late(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Later than any hedge would be asked."""
    await anyio.sleep(0.5)
    return await site.answer(request)
