"""Sites that fail, come back, join late, or are never asked again."""

from __future__ import annotations

import socket

import anyio
import pytest
from aiohttp import web

from runtime.encoder import ImageEncoder
from runtime.sites.client import SiteClient
from runtime.sites.health import Health
from runtime.sites.windows import open_sites
from stages.bundle import Bundle
from tests.support.edge import (
    PATIENT,
    SOON,
    Impostor,
    canvas_of,
    config,
    ledger_for,
    status,
)
from tests.support.failing_sites import SITE_LOG_HINT
from tests.support.fakes import until
from tests.support.scenes import NO_ENGINES, LocalStamps, Notes, embeddings_of, honest, scene

pytestmark = pytest.mark.anyio


async def test_a_site_that_comes_back_has_its_windows_again(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local) as it:
        sites["b"].always = status(500, "broken")
        await it.frame()
        assert set(local.windows) == it.own("b")
        sites["b"].always = None
        await until(lambda: it.site("b").on_trial or it.site("b").ready)
        await it.frame()
        await it.notes.wait_for("is back")
        sites["b"].tiles.clear()
        await it.frame()
        assert it.sent("b") == it.own("b")
        assert set(local.windows) == it.own("b")
        sites["b"].always = status(500, "broken")
        await it.frame()
        assert it.notes.lines == [
            f"site b: answered 500: broken; {SITE_LOG_HINT}",
            "site b: is back and has its windows again",
            f"site b: answered 500: broken; {SITE_LOG_HINT}",
        ]


async def test_a_site_whose_port_is_closed_at_the_start_joins_when_it_opens(mini_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    late, early = Impostor(mini_bundle), Impostor(mini_bundle)
    notes, local = Notes(), LocalStamps(mini_bundle)
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with early.running() as url:
        configs = [config("early", url), config("late", f"http://127.0.0.1:{port}")]
        clients = [SiteClient(each, mini_bundle, "fp16", PATIENT) for each in configs]
        async with open_sites(
            mini_bundle,
            clients,
            ledger_for(configs, 8),
            canvas.windows,
            notes.add,
            window_engine=True,
            reconnect_s=SOON,
        ) as windows:
            encoder = ImageEncoder(mini_bundle, NO_ENGINES, windows, local)
            await embeddings_of(encoder, canvas)
            assert len(set(local.windows)) == 7
            async with late.running(port):
                await notes.wait_for("site late: has joined")
                await embeddings_of(encoder, canvas)
            assert len(set(late.tiles)) == 7
            assert len(set(early.tiles)) == 8


async def test_an_untrusted_site_is_never_asked_again(mini_bundle: Bundle) -> None:
    requests = 0

    async def lie(site: Impostor, request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return web.json_response({"parameters": {"site_digest": {"string_value": "sha256:0"}}})

    sites = {**honest(mini_bundle, "ac"), "b": Impostor(mini_bundle, always=lie)}
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local) as it:
        for _ in range(3):
            await it.frame()
        assert it.site("b").health is Health.EXCLUDED
        assert mini_bundle.site_digest in it.notes.lines[0]
        assert "sha256:0," in it.notes.lines[0]
    assert (requests, sites["b"].tiles, len(it.notes.lines)) == (1, [], 1)


async def test_a_wrong_answer_excludes_a_site_that_is_already_down(mini_bundle: Bundle) -> None:
    """Of the tiles under way one fails harmlessly first; the wrong one still counts, however late."""
    nonsense = anyio.Event()

    async def late_nonsense(site: Impostor, request: web.Request) -> web.StreamResponse:
        await nonsense.wait()
        return web.Response(body=b"nonsense")

    sites = honest(mini_bundle, "abc")
    sites["b"].script.extend([status(500), late_nonsense])
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60]) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await it.notes.wait_for("answered 500")
            assert it.site("b").health is Health.DOWN
            nonsense.set()
        assert it.site("b").health is Health.EXCLUDED
        assert [line[:18] for line in it.notes.lines] == ["site b: answered 5", "site b: sent a mal"]


async def test_what_a_site_words_cannot_reach_the_terminal_as_control_codes(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    sites["a"].digest = "\x1b[31mred\x07"
    sites["b"].always = status(500, "\x1b[31mred\x07")
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60]) as it:
        assert len(it.notes.lines) == 2
        assert all("[31mred" in line and line.isprintable() for line in it.notes.lines)
