"""Windows through several sites: who gets which, and what happens when sites fail."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest
from aiohttp import web

from runtime.encoder import ImageEncoder
from runtime.sites.client import SiteClient, SiteTimeout
from runtime.sites.health import Health
from runtime.sites.ledger import Grant
from runtime.sites.sendable import SendableTile
from runtime.sites.windows import OnAnswer, SiteWindows, open_sites
from stages.bundle import Bundle, Probe
from stages.errors import InputError, SiteUnavailable
from stages.tensors import Array
from tests.support.edge import (
    Behaviour,
    Impostor,
    answers_with,
    body,
    canvas_of,
    config,
    ledger_for,
    stall,
    status,
    window_stamp,
)
from tests.support.failing_sites import SITE_LOG_HINT
from tests.support.fakes import until
from tests.support.scenes import NO_ENGINES, LocalStamps, Notes, Scene, embeddings_of, honest, scene

pytestmark = pytest.mark.anyio


async def test_every_window_goes_to_its_home_and_stays_there_over_frames(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, honest(mini_bundle, "abc")) as it:
        for _ in range(3):
            await it.frame()
        for name in "abc":
            assert len(it.own(name)) == 5
            assert it.sent(name) == it.own(name) == it.ledger.exposure(f"operator-{name}")
            assert sorted(it.impostors[name].tiles) == sorted(3 * list(it.own(name)))
        counts = it.encoder.statistics
        assert (counts.canvases, counts.windows_sent, counts.windows_skipped) == (3, 45, 30)
        assert (counts.redispatched, counts.local_windows, it.notes.lines) == (0, 0, [])
        assert [client.tiles for client in it.clients] == [15, 15, 15]


async def test_probes_are_no_exposure(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, honest(mini_bundle, "abc")) as it:
        assert set(it.ledger.exposed().values()) == {frozenset()}
        assert all(client.traffic.body_up > 0 for client in it.clients)


@pytest.mark.parametrize(
    "behaviour",
    [
        stall,
        status(500),
        status(503, Retry_After="10"),
        status(302, Location="/"),
        body(b"nothing"),
        answers_with(lambda b: window_stamp(b, 3)[None] * np.float16("nan")),
    ],
    ids=["stall", "500", "busy", "redirect", "malformed", "NaN"],
)
async def test_a_failed_sites_windows_run_at_the_edge_when_nobody_has_room(
    mini_bundle: Bundle, behaviour: Behaviour
) -> None:
    sites = honest(mini_bundle, "abc")
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60], hasty="b") as it:
        sites["b"].script.extend([behaviour] * 100)
        await it.frame()
        await it.frame()
        assert set(local.windows) == it.own("b")
        assert it.sent("a") == it.own("a")
        assert it.sent("c") == it.own("c")
        assert len(sites["b"].tiles) <= 5  # no tile of the second frame was sent there
        assert it.site("b").health in (Health.DOWN, Health.EXCLUDED)
        assert len(it.notes.lines) == 1  # the other tiles under way are echoes
        assert it.encoder.statistics.local_windows == 10


async def test_another_site_of_the_same_operator_takes_over_within_the_cap(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abxy")
    async with scene(mini_bundle, sites, cap=5, same_operator="xy", reconnect_s=[60]) as it:
        await it.frame()
        assert it.sent("x") | it.sent("y") == it.ledger.exposure("operator-both")
        assert len(it.ledger.exposure("operator-both")) == 5
        sites["x"].always = status(500)
        await it.frame()
        assert sites["y"].tiles.count(next(iter(it.ledger.exposure("operator-both")))) >= 1
        assert len(it.ledger.exposure("operator-both")) == 5
        assert it.encoder.statistics.local_windows == 0


async def test_no_site_and_no_window_engine_is_refused_at_the_start(mini_bundle: Bundle) -> None:
    sites = {"a": Impostor(mini_bundle, always=status(500, "out of order"))}
    with pytest.raises(InputError, match=r"no site can be used.*out of order"):
        async with scene(mini_bundle, sites):
            pass


async def test_no_site_at_all_can_work_on_with_the_edges_engine(mini_bundle: Bundle) -> None:
    local = LocalStamps(mini_bundle)
    sites = {name: Impostor(mini_bundle, always=status(500)) for name in "ab"}
    async with scene(mini_bundle, sites, local=local) as it:
        await it.frame()
        assert sorted(local.windows) == list(range(15))


async def test_windows_beyond_all_caps_are_refused_at_the_start_where_nothing_can_run_them(
    mini_bundle: Bundle,
) -> None:
    with pytest.raises(InputError, match=r"together see 12 of 15 windows.*raise the caps to 5 each"):
        async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=4):
            pass


async def test_the_ledger_has_the_last_word(mini_bundle: Bundle) -> None:
    """Whatever was planned: an operator that has seen enough by other ways gets none of its windows."""
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), local=local) as it:
        for window in sorted(set(range(25)) - it.own("a"))[:5]:
            assert it.ledger.grant("a", window)
        await it.frame()
        assert it.sent("a") == set()
        assert set(local.windows) == it.own("a")


Deed = Callable[[], Awaitable[None]]


class Scripted(SiteClient):
    """A site in memory. With its first tiles it does what `script` says, which raises SiteError."""

    def __init__(self, bundle: Bundle, *script: Deed) -> None:
        super().__init__(config("a"), bundle, "fp16")
        self.script, self._stamps = deque(script), bundle

    async def connect(self, probe: Probe) -> None:
        pass

    async def infer(self, grants: Sequence[Grant], tiles: Sequence[SendableTile]) -> Array:
        if self.script:
            await self.script.popleft()()
        return np.stack([window_stamp(self._stamps, grant.window) for grant in grants])


@asynccontextmanager
async def scripted(
    bundle: Bundle, client: Scripted, reconnect_s: float
) -> AsyncIterator[tuple[SiteWindows, Callable[[], Coroutine[Any, Any, Array]], LocalStamps, Notes]]:
    """It alone beside the edge's engine, and how to embed a frame."""
    canvas, local, notes = canvas_of("16:9", bundle.geometry), LocalStamps(bundle), Notes()
    async with open_sites(
        bundle,
        [client],
        ledger_for([client.config], 15),
        canvas.windows,
        notes.add,
        window_engine=True,
        reconnect_s=[reconnect_s],
    ) as windows:
        encoder = ImageEncoder(bundle, NO_ENGINES, windows, local)
        yield windows, partial(embeddings_of, encoder, canvas), local, notes


async def test_the_other_tiles_of_a_site_that_hangs_do_not_wait_for_their_deadlines(
    mini_bundle: Bundle,
) -> None:
    """They go elsewhere when the first one is late."""

    async def late() -> None:
        await until(lambda: not client.script)
        raise SiteTimeout("a", 5.0)

    client = Scripted(mini_bundle, late, *[anyio.sleep_forever] * 14)
    async with scripted(mini_bundle, client, 60) as (_, frame, local, notes):
        with anyio.fail_after(60):
            await frame()
        assert sorted(local.windows) == list(range(15))
        assert notes.lines == [f"site a: gave no answer within 5.0 s; {SITE_LOG_HINT}"]


async def test_an_old_tile_does_not_take_out_a_site_that_has_come_back(mini_bundle: Bundle) -> None:
    back = anyio.Event()

    async def fail() -> None:
        raise SiteUnavailable("a", "answered 500")

    async def late() -> None:
        await back.wait()
        raise SiteTimeout("a", 5.0)

    client = Scripted(mini_bundle)
    async with scripted(mini_bundle, client, 0.01) as (windows, frame, _, notes):
        await frame()
        client.script.extend([late, fail])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(frame)
            await notes.wait_for("answered 500")
            with anyio.fail_after(60):
                while not windows.sites.ready():
                    await frame()
                    await anyio.sleep(0.01)
            back.set()
        assert [line.removeprefix("site a: ")[:7] for line in notes.lines] == ["answere", "is back"]
        assert len(windows.sites.ready()) == 1


@asynccontextmanager
async def hedging(bundle: Bundle, hasty: str = "", on_answer: OnAnswer | None = None) -> AsyncIterator[Scene]:
    """Sites x and y of one operator, which has seen all its windows; x is always asked first."""
    sites = honest(bundle, "abxy")
    async with scene(
        bundle,
        sites,
        reconnect_s=[60],
        same_operator="xy",
        hasty=hasty,
        hedge_factor=0.01,
        on_answer=on_answer,
    ) as it:
        await it.frame()
        it.site("x").client.tile_s, it.site("y").client.tile_s = 1e-6, 1000.0
        sites["x"].tiles.clear()
        yield it


async def test_a_late_site_is_passed_over_by_another_of_its_operator(mini_bundle: Bundle) -> None:
    """Nobody sees more than before. One request goes on, to see whether it is answered at all."""
    async with hedging(mini_bundle) as it:
        before, hedged = it.ledger.exposed(), it.encoder.statistics.hedged
        it.impostors["x"].script.extend([stall] * 100)
        with anyio.fail_after(60):
            await it.frame()
        assert it.ledger.exposed() == before
        assert it.encoder.statistics.hedged == hedged + 5
        assert it.encoder.statistics.redispatched == 0
        assert it.site("x").health is Health.READY
        await until(lambda: it.site("x").client.in_flight == 1)
        assert all(site.client.in_flight == 0 for site in it.windows.sites if site.name != "x")
        it.encoder.pause(True)
        await until(lambda: it.site("x").client.in_flight == 0)


async def test_a_site_that_hangs_is_taken_out_though_another_answers_for_it(mini_bundle: Bundle) -> None:
    async with hedging(mini_bundle, hasty="x") as it:
        it.impostors["x"].script.extend([stall] * 1000)
        with anyio.fail_after(60):
            while it.site("x").health is Health.READY:
                await it.frame()
        assert it.site("x").health is Health.DOWN
        (line,) = it.notes.lines
        assert re.fullmatch(
            r"site x: hangs: a second site had to answer its last \d+ tiles, and it gave no answer within "
            rf"0\.3 s; {SITE_LOG_HINT}",
            line,
        )
        asked = len(it.impostors["x"].tiles)
        await it.frame()
        assert len(it.impostors["x"].tiles) == asked
        assert it.encoder.statistics.local_windows == 0


async def test_a_site_that_hung_is_tried_again(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "xy")
    async with scene(mini_bundle, sites, 15, same_operator="xy", hasty="x", hedge_factor=0.01) as it:
        await it.frame()
        it.site("x").client.tile_s, it.site("y").client.tile_s = 1e-6, 1000.0
        sites["x"].script.extend([stall] * 1000)
        with anyio.fail_after(60):
            while not it.notes.lines:
                await it.frame()
        sites["x"].script.clear()
        with anyio.fail_after(60):
            while not it.site("x").ready:
                await it.frame()
        assert it.notes.lines[-1] == "site x: is back and has its windows again"
        assert it.site("x").lost_hedges == 0


async def test_a_site_that_is_slow_and_answers_in_the_end_stays(mini_bundle: Bundle) -> None:
    """Every tile of it is late for its frame, and one is waited for until it comes."""
    answered: list[str] = []
    async with hedging(mini_bundle, on_answer=lambda site, *when: answered.append(site)) as it:
        release = anyio.Event()

        async def slow(site: Impostor, request: web.Request) -> web.StreamResponse:
            await release.wait()
            return await site.answer(request)

        it.impostors["x"].script.extend([slow] * 15)
        answered.clear()
        for _ in range(3):
            await it.frame()
        assert "x" not in answered
        assert it.site("x").lost_hedges == 15
        release.set()
        await until(lambda: "x" in answered)
        assert it.site("x").health is Health.READY
        assert it.site("x").lost_hedges == 0
        assert it.notes.lines == []


async def test_a_site_that_answers_other_tiles_does_not_hang(mini_bundle: Bundle) -> None:
    """One tile is lost on the way and never answered."""
    async with hedging(mini_bundle, hasty="x") as it:
        hedged = it.encoder.statistics.hedged
        it.impostors["x"].script.append(stall)
        await it.frame()
        await until(lambda: it.site("x").client.in_flight == 0)
        assert it.encoder.statistics.hedged > hedged
        assert it.site("x").health is Health.READY
        assert it.notes.lines == []


async def test_a_window_is_never_hedged_to_who_has_not_seen_it(mini_bundle: Bundle) -> None:
    """There is room under every cap, and still nobody else gets it: the frame waits for its site."""
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, cap=15, hedge_factor=0.0) as it:
        await it.frame()
        before = it.ledger.exposed()
        sites["b"].script.extend([late] * 3)
        await it.frame()
        assert it.encoder.statistics.hedged == 0
        assert it.ledger.exposed() == before


async def late(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Later than any hedge would be asked."""
    await anyio.sleep(0.5)
    return await site.answer(request)
