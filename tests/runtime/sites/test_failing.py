"""A site that answers its probe but fails its tiles: copies try it, ever more rarely, until one is good."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from aiohttp import web

from runtime.encoder import FrameLost
from runtime.sites.health import FAILS_TILES, FORGIVEN_AFTER, Health
from stages.bundle import Bundle
from tests.support.edge import Impostor, stall, status
from tests.support.failing_sites import SITE_LOG_HINT
from tests.support.fakes import until
from tests.support.scenes import LocalStamps, Scene, honest, scene

pytestmark = pytest.mark.anyio

NEVER = 3600.0
FAILED = f"site b: answered 500: no; {SITE_LOG_HINT}"
FAILING = f"site b: {FAILS_TILES}"
BACK = "site b: is back and has its windows again"


def failing(bundle: Bundle) -> dict[str, Impostor]:
    """b fails every tile until its script is cleared."""
    sites = honest(bundle, "abc")
    sites["b"].script.extend([status(500)] * 10_000)
    return sites


async def frames_until_failed(it: Scene, failures: int) -> None:
    """Frames until b was taken out so many times."""
    with anyio.fail_after(60):
        while it.site("b").failures < failures:
            await it.frame()
    await until(lambda: it.site("b").client.in_flight == 0)


async def until_on_trial(it: Scene) -> None:
    await until(lambda: it.site("b").on_trial)


@pytest.mark.parametrize("waits_s", [(0.02, NEVER), (0.02, 0.02, NEVER), (0.02, 0.02, 0.02, NEVER)], ids=len)
async def test_the_waits_grow_though_the_probe_passes(mini_bundle: Bundle, waits_s: Sequence[float]) -> None:
    sites = failing(mini_bundle)
    async with scene(mini_bundle, sites, local=LocalStamps(mini_bundle), reconnect_s=waits_s) as it:
        await it.frame()
        first = len(sites["b"].tiles)
        await frames_until_failed(it, len(waits_s))
        await anyio.sleep(0.3)  # more than any wait but the last
        await it.frame()
        assert len(sites["b"].tiles) == first + len(waits_s) - 1  # one copy of one tile an attempt
        assert (it.site("b").health, it.site("b").failures) == (Health.FAILING, len(waits_s))
        assert it.notes.lines == [FAILED, FAILING]  # however often it was tried
        assert it.site("b").last_error == FAILED


async def test_it_is_used_again_once_a_tile_is_good(mini_bundle: Bundle) -> None:
    sites, local = failing(mini_bundle), LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local) as it:
        await frames_until_failed(it, 2)
        sites["b"].script.clear()
        await until_on_trial(it)
        local.windows.clear()
        await it.frame()
        assert set(local.windows) == it.own("b")  # nothing but the copy has gone there
        await it.notes.wait_for(BACK)
        assert it.notes.lines == [FAILED, FAILING, BACK]
        local.windows.clear()
        await it.frame()
        assert local.windows == []
        assert it.site("b").last_error is None


async def test_what_it_failed_is_remembered_until_many_tiles_were_good(mini_bundle: Bundle) -> None:
    """Else a site that fails now and then would be trusted for each good tile."""
    sites = honest(mini_bundle, "abc")
    async with scene(
        mini_bundle, sites, local=LocalStamps(mini_bundle), reconnect_s=(0.02, 0.02, NEVER)
    ) as it:
        for failures in (1, 2, 3):
            sites["b"].script.extend([status(500)] * 5)
            await it.frame()
            assert it.site("b").failures == failures
            if failures < 3:
                await until_on_trial(it)
                sites["b"].script.clear()
                await it.frame()
                await until(lambda: it.site("b").ready)
        await anyio.sleep(0.3)
        assert (it.site("b").health, it.site("b").on_trial) == (Health.DOWN, False)  # the third wait


async def test_many_good_tiles_make_it_as_good_as_new(mini_bundle: Bundle) -> None:
    sites = failing(mini_bundle)
    async with scene(mini_bundle, sites, local=LocalStamps(mini_bundle)) as it:
        await frames_until_failed(it, 3)
        sites["b"].script.clear()
        with anyio.fail_after(60):
            while not it.site("b").ready:
                await it.frame()
        for _ in range(FORGIVEN_AFTER // 5 - 1):
            await it.frame()
            assert it.site("b").failures >= 3
        await it.frame()
        assert it.site("b").failures == 0


async def test_nobody_waits_for_the_copy_and_nobody_sees_more(mini_bundle: Bundle) -> None:
    sites = failing(mini_bundle)
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, cap=15, local=local) as it:
        await frames_until_failed(it, 1)
        exposed = it.ledger.exposed()
        sites["b"].script.clear()
        sites["b"].script.extend([stall] * 100)
        await until_on_trial(it)
        sites["b"].tiles.clear()
        for _ in range(3):
            await it.frame()  # would not end, if it waited
        await until(lambda: it.site("b").client.in_flight == 1)
        assert len(sites["b"].tiles) == 1
        assert it.ledger.exposed() == exposed
        it.encoder.pause(True)
        await until(lambda: it.site("b").client.in_flight == 0)
        it.encoder.pause(False)
        assert it.site("b").on_trial  # nothing is known of it, and the next tile tries it
        sites["b"].script.clear()
        await it.frame()
        await it.notes.wait_for(BACK)


async def test_a_copy_that_answers_wrongly_excludes(mini_bundle: Bundle) -> None:
    sites = failing(mini_bundle)
    async with scene(mini_bundle, sites, local=LocalStamps(mini_bundle)) as it:
        await frames_until_failed(it, 1)
        await until_on_trial(it)
        sites["b"].script.clear()
        sites["b"].script.append(nonsense)
        await it.frame()
        await it.notes.wait_for("malformed")
        assert (it.site("b").health, it.site("b").on_trial) == (Health.EXCLUDED, False)


async def test_where_nobody_else_may_have_its_windows_it_is_tried_with_all_of_them(
    mini_bundle: Bundle,
) -> None:
    sites = failing(mini_bundle)
    async with scene(mini_bundle, sites, reconnect_s=[0.02]) as it:
        with pytest.raises(FrameLost, match="does not answer"):
            await it.frame()
        sites["b"].script.clear()
        await until_on_trial(it)
        sites["b"].tiles.clear()
        await it.frame()
        assert sorted(sites["b"].tiles) == sorted(it.own("b"))
        assert it.site("b").ready


async def test_a_site_that_was_gone_needs_its_probe_alone(mini_bundle: Bundle) -> None:
    """There may be nothing to send it: nothing moves in the picture."""
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, local=LocalStamps(mini_bundle)) as it:
        sites["b"].always = status(500)
        await it.frame()
        await until(lambda: it.site("b").health is Health.DOWN and not it.site("b").suspect)
        sites["b"].always = None
        await it.notes.wait_for(BACK)
        assert it.site("b").ready


async def nonsense(site: Impostor, request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"nonsense")
