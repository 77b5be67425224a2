"""The port for probes, which tells anyone on this machine whether the site is live and ready."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from server.limits import Limits
from server.state import Phase
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.clients import INFER, Answer, dial
from tests.support.fakes import FakeEngine, fake_site, until
from tests.support.keys import keys_for, site_at
from tests.support.processes import serving

pytestmark = pytest.mark.anyio

LIVE, READY = "/v2/health/live", "/v2/health/ready"
CLOSED = (aiohttp.ClientConnectionError, ssl.SSLError)


async def ask(url: str | None, path: str, method: str = "GET", tls: ssl.SSLContext | None = None) -> Answer:
    assert url is not None
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, ssl=tls or True) as answer,
    ):
        return Answer(answer.status, answer.headers, await answer.read())


async def test_probes_need_no_certificate_there(tmp_path: Path) -> None:
    keys = keys_for(tmp_path)
    async with fake_site(keys=keys, health_port=0) as site:
        without = replace(site_at(site.url, keys), cert=None, key=None)
        assert site.health_url is not None
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", site.health_url)
        for path in (LIVE, READY):
            assert (await ask(site.health_url, path)).status == 200
            with pytest.raises(CLOSED):
                await ask(site.url, path, tls=without.ssl_context())
        site.state.phase = Phase.STOPPING
        assert (await ask(site.health_url, LIVE)).status == 200
        assert (await ask(site.health_url, READY)).status == 503
    with pytest.raises(CLOSED):
        await ask(site.health_url, LIVE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/v2"),
        ("POST", INFER),
        ("POST", READY),
        ("GET", READY + "/"),
        ("GET", "/"),
    ],
)
async def test_nothing_else_is_told_there(method: str, path: str) -> None:
    engine = FakeEngine()
    async with fake_site(engine, health_port=0) as site:
        answer = await ask(site.health_url, path, method)
    assert answer.status == 404
    assert answer.error == "this port answers GET /v2/health/live and /v2/health/ready alone"
    assert engine.batches == []


async def test_a_site_is_only_asked_for_it() -> None:
    async with fake_site() as site:
        assert site.health_url is None


async def test_a_site_full_of_clients_still_tells_its_health() -> None:
    async with fake_site(health_port=0, limits=Limits(connections=1)) as site:
        _, writer = await dial(site)
        await until(lambda: site.state.quotas.connections.taken == 1)
        with pytest.raises(CLOSED):
            await ask(site.url, READY)
        assert (await ask(site.health_url, READY)).status == 200
        writer.close()
        await writer.wait_closed()


class AskedAtItsEnd(FakeEngine):
    """Asks for the site's health while it closes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.url: str | None = None
        self.told: list[int] = []

    def _deactivate(self) -> None:
        for path in (LIVE, READY):
            answer = asyncio.run_coroutine_threadsafe(ask(self.url, path), self.loop).result(60)
            self.told.append(answer.status)


async def test_a_site_that_stops_is_live_and_not_ready_until_its_engines_are_closed() -> None:
    engine = AskedAtItsEnd()
    async with fake_site(engine, health_port=0) as site:
        engine.url = site.health_url
    assert engine.told == [200, 503]


async def test_a_taken_port_is_named_before_the_engine_is_opened() -> None:
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"listen on 127\.0\.0\.1:{port} .* choose another --health-port"
        ):
            await fake_site(engine, health_port=port).__aenter__()
    assert engine.calls == []


async def test_the_command_says_where(mini_bundle: Bundle) -> None:
    with serving(mini_bundle.path, "--health-port", "0") as site:
        (line,) = (line for line in site.lines if line.startswith("health on "))
        url = line.removeprefix("health on ").removesuffix(READY)
        assert (await ask(url, READY)).status == 200
        site.process.terminate()
        assert site.wait() == (0, "")
