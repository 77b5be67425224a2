"""Windows that leave together share a request, and nothing else: grants, waits, failures are each its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from runtime.encoder import SendingPaused
from runtime.sites.client import SiteClient, SiteTimeout, Timeouts
from runtime.sites.health import Health
from runtime.sites.traffic import even_parts
from stages.bundle import Bundle
from stages.errors import SiteUntrusted
from tests.support.edge import (
    PATIENT,
    Impostor,
    answers_with,
    canvas_of,
    config,
    grant_for,
    granted,
    sendable,
    stall,
    status,
    window_stamp,
)
from tests.support.proxies import held
from tests.support.scenes import LocalStamps, Scene, scene

pytestmark = pytest.mark.anyio
LARGE = 1 << 20  # bytes: as many windows as a site takes


def several(bundle: Bundle, names: str, most: int = 25) -> dict[str, Impostor]:
    return {name: Impostor(bundle, max_batch=most) for name in names}


def sharing(
    bundle: Bundle, impostors: dict[str, Impostor], **more: object
) -> AbstractAsyncContextManager[Scene]:
    return scene(bundle, impostors, request_bytes=LARGE, **more)  # type: ignore[arg-type]


def leaving(it: Scene) -> bool:
    """Whether windows wait for the request that they will share."""
    return bool(it.windows._requests._leaving)


def lengths(impostor: Impostor) -> list[int]:
    return [len(request) for request in impostor.requests]


@pytest.mark.parametrize("hedge_factor", [None, 1e9])
async def test_the_windows_of_a_frame_share_one_request_a_site(
    mini_bundle: Bundle, hedge_factor: float | None
) -> None:
    """Those too that could be sent to a second site, which the ledger of some windows allows."""
    async with sharing(mini_bundle, several(mini_bundle, "abc"), cap=15, hedge_factor=hedge_factor) as it:
        it.ledger.grant_all([("a", window) for window in sorted(it.own("b"))[1:]])
        for _ in range(2):
            await it.frame()
        for name, impostor in it.impostors.items():
            assert lengths(impostor) == [len(it.own(name))] * 2
            assert set(impostor.tiles) == it.own(name) == it.site(name).client.sent
            assert it.site(name).client.tiles == len(impostor.tiles)
        counts = it.encoder.statistics
        assert (counts.windows_sent, counts.redispatched, counts.hedged) == (30, 0, 0)
        assert [client.in_flight for client in it.clients] == [0, 0, 0]


async def test_a_site_is_sent_no_more_than_it_takes(mini_bundle: Bundle) -> None:
    async with sharing(mini_bundle, several(mini_bundle, "abc", most=2)) as it:
        await it.frame()
        assert [lengths(impostor) for impostor in it.impostors.values()] == [[1, 2, 2]] * 3


@pytest.mark.parametrize("most", [None, 0, -1])
async def test_a_site_that_does_not_say_gets_windows_alone(mini_bundle: Bundle, most: int | None) -> None:
    impostors = {name: Impostor(mini_bundle, max_batch=most) for name in "abc"}
    async with sharing(mini_bundle, impostors) as it:
        await it.frame()
        assert [lengths(impostor) for impostor in it.impostors.values()] == [[1] * 5] * 3


async def test_large_windows_go_alone(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, several(mini_bundle, "abc")) as it:
        await it.frame()
        assert [lengths(impostor) for impostor in it.impostors.values()] == [[1] * 5] * 3


async def test_after_a_failure_each_window_goes_on_alone(mini_bundle: Bundle) -> None:
    sites = {"a": Impostor(mini_bundle, status(500), max_batch=25), **several(mini_bundle, "b")}
    async with sharing(mini_bundle, sites, cap=15, reconnect_s=(60.0,)) as it:
        own = it.own("a")
        await it.frame()
        assert lengths(sites["a"]) == [len(own)]
        assert sorted(lengths(sites["b"])) == [1] * len(own) + [15 - len(own)]
        counts = it.encoder.statistics
        assert (counts.windows_sent, counts.redispatched) == (15, len(own))
        assert len(it.notes.lines) == 1  # one site failed once
        assert it.site("a").failures == 1


async def test_a_wrong_window_spoils_its_request_and_no_mask(mini_bundle: Bundle) -> None:
    def wrong(bundle: Bundle) -> object:
        stamps = np.stack([window_stamp(bundle, window) for window in sorted(liar.tiles)])
        stamps[3, 0, 0, 0] = np.nan
        return stamps

    liar = Impostor(mini_bundle, answers_with(wrong), max_batch=25)  # type: ignore[arg-type]
    async with sharing(
        mini_bundle, {"a": liar, **several(mini_bundle, "b")}, cap=8, local=LocalStamps(mini_bundle)
    ) as it:
        await it.frame()  # all embeddings are right
        assert "not finite" in it.notes.lines[0]
        assert [it.site(name).health for name in "ab"] == [Health.EXCLUDED, Health.READY]


async def test_a_request_ends_when_nobody_waits_for_any_of_its_windows(mini_bundle: Bundle) -> None:
    stalling = Impostor(mini_bundle, stall, max_batch=25)
    async with sharing(mini_bundle, {"a": stalling}, cap=15) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await stalling.seen.wait()
            assert it.clients[0].in_flight == 15
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            while it.clients[0].in_flight:
                await anyio.lowlevel.checkpoint()
        await it.frame()
        assert lengths(stalling) == [15, 15]


async def test_a_request_goes_on_while_one_window_of_it_is_waited_for(mini_bundle: Bundle) -> None:
    site = Impostor(mini_bundle, max_batch=25)
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with sharing(mini_bundle, {"a": site}, cap=15) as it:
        site.script.append(held)
        answers: list[int] = []

        async def embed(window: int, scope: anyio.CancelScope) -> None:
            with scope:
                answer = await it.windows.embed(*sendable(canvas.window_inputs([window], mini_bundle)))
                assert answer is not None
                answers.append(int(answer.embedding[0, 0, 0]))

        await it.windows.router.grant_together(range(3))  # as a frame's are before any of it leaves
        scopes = [anyio.CancelScope() for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for window, scope in enumerate(scopes):
                tasks.start_soon(embed, window, scope)
            await site.seen.wait()
            scopes[0].cancel()
            scopes[2].cancel()
            await anyio.wait_all_tasks_blocked()
            site.released.set()
        assert answers == [1]
        assert site.requests == [[0, 1, 2]]


@pytest.mark.parametrize(
    "windows", [(7, 8), (8, 7), (7,), (7, 8, 9), (7, 7), ()], ids=lambda windows: f"{len(windows)} {windows}"
)
async def test_grants_are_those_of_the_tiles_exactly(mini_bundle: Bundle, windows: Sequence[int]) -> None:
    site = Impostor(mini_bundle)
    canvas = canvas_of("16:9", mini_bundle.geometry)
    inputs = canvas.window_inputs([7, 8], mini_bundle)
    async with site.running() as url, SiteClient(config("a", url), mini_bundle, "fp16", PATIENT) as client:
        grants = [grant_for(client.config, window) for window in windows]
        if windows == (7, 8):
            assert (await client.infer(grants, sendable(inputs)))[:, 0, 0, 0].tolist() == [7, 8]
            assert site.requests == [[7, 8]]
        else:
            with pytest.raises(ValueError, match="not the grants of these tiles"):
                await client.infer(grants, sendable(inputs))
            assert site.requests == []
        others = [grants[0] if grants else granted("a", "x", 7), granted("b", "x", 8)]
        with pytest.raises(ValueError, match="not the grants of these tiles"):
            await client.infer(others, sendable(inputs))


async def test_the_deadline_of_a_request_is_that_of_all_its_windows(mini_bundle: Bundle) -> None:
    site, strict = Impostor(mini_bundle, stall), Timeouts(tile_s=0.05, tile_factor=1.0)
    canvas = canvas_of("16:9", mini_bundle.geometry)
    inputs = canvas.window_inputs([7, 8, 9], mini_bundle)
    async with site.running() as url, SiteClient(config("a", url), mini_bundle, "fp16", strict) as client:
        client.tile_s = 0.2
        grants = [grant_for(client.config, window) for window in (7, 8, 9)]
        with pytest.raises(SiteTimeout, match=r"within 0\.6 s"):
            await client.infer(grants, sendable(inputs))


async def test_parts_are_few_and_equal() -> None:
    assert even_parts(range(5), 2) == [range(1), range(1, 3), range(3, 5)]
    assert even_parts(range(5), 5) == [range(5)]
    assert even_parts("", 3) == []
    for count in range(1, 26):
        for most in range(1, 26):
            parts = even_parts(range(count), most)
            assert [item for part in parts for item in part] == list(range(count))
            sizes = {len(part) for part in parts}
            assert max(sizes) <= most
            assert max(sizes) - min(sizes) <= 1
            assert len(parts) == -(-count // most)


@pytest.mark.parametrize("hedge_factor", [None, 1e9])
@pytest.mark.parametrize("turns", range(6))
async def test_nothing_leaves_after_a_pause(
    mini_bundle: Bundle, turns: int, hedge_factor: float | None
) -> None:
    """Whatever turn of the event loop it falls into, from when the first window waits to leave. What a client
    has begun to send by then may be with the system already."""
    async with sharing(mini_bundle, several(mini_bundle, "abc"), cap=15, hedge_factor=hedge_factor) as it:
        it.ledger.grant_all([("a", window) for window in it.own("b")])
        await it.frame()  # connections are open, and nothing is new to the ledger

        async def frame() -> None:
            with contextlib.suppress(SendingPaused):
                await it.frame()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(frame)
            while not leaving(it):
                await anyio.lowlevel.checkpoint()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            it.encoder.pause(True)
            sent = {client: client.traffic.body_up for client in it.clients if not client.in_flight}
            await anyio.wait_all_tasks_blocked()
        assert len(sent) == 3 or turns > 1
        assert {client: client.traffic.body_up for client in sent} == sent


async def test_nothing_leaves_for_a_site_that_was_excluded_meanwhile(mini_bundle: Bundle) -> None:
    async with sharing(mini_bundle, several(mini_bundle, "ab"), cap=8, local=LocalStamps(mini_bundle)) as it:
        await it.frame()
        sent = it.site("a").client.traffic.body_up
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            while not leaving(it):
                await anyio.lowlevel.checkpoint()
            it.windows.sites.failed(it.site("a"), SiteUntrusted("a", "lies"))
        assert it.site("a").client.traffic.body_up == sent
