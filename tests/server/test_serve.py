"""Starting and stopping a site: addresses, failures on the way, and the phases of a shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import anyio
import pytest

from server.serve import RunningSite, ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import BundleError, EngineError, InputError
from tests.support.clients import Client, connected, dial, has_ipv6, raw_infer
from tests.support.fakes import FakeEngine, Gate, fake_site, tiny_bundle, until
from tests.support.keys import keys_for, site_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


def what(engine: FakeEngine) -> list[str]:
    return [call.what for call in engine.calls]


async def enter(site: AbstractAsyncContextManager[RunningSite]) -> None:
    async with site:
        pytest.fail("the site must not start")


# Starting


async def test_a_site_says_where_it_answers() -> None:
    async with connected() as client:
        assert client.site.url.startswith("http://127.0.0.1:")
        assert client.site.backend == "fake 1.0 on nothing"
        assert (await client.ask("GET", "/v2/health/ready")).status == 200


@pytest.mark.parametrize("host", ["localhost", "::1"])
async def test_other_names_of_this_machine(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    async with connected(host=host) as client:
        assert client.site.url.rpartition(":")[0] in ("http://127.0.0.1", "http://[::1]")
        assert (await client.infer(1)).holds(1)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "", "example.org", "::"])  # noqa: S104
async def test_plain_http_off_loopback_is_refused_before_anything_starts(host: str) -> None:
    engine = FakeEngine()
    with pytest.raises(InputError, match=r"is not a loopback address .* give --insecure"):
        await enter(fake_site(engine, host=host))
    assert engine.calls == []


async def test_plain_http_off_loopback_can_be_insisted_on() -> None:
    async with connected(host="0.0.0.0", insecure=True) as client:  # noqa: S104
        assert client.site.url.startswith("http://0.0.0.0:")
        assert (await client.infer(1)).holds(1)


async def test_a_taken_port_is_named_before_the_engine_is_opened() -> None:
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"):
            await enter(fake_site(engine, port=port))
    assert engine.calls == []


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64])
async def test_an_address_of_another_machine_cannot_be_listened_on(host: str) -> None:
    with pytest.raises(InputError, match=f"cannot listen on {host}:0 .*--host"):
        await enter(fake_site(host=host, insecure=True))


async def test_an_engine_that_cannot_open_is_no_site() -> None:
    with pytest.raises(EngineError, match="no device"):
        await enter(fake_site(FakeEngine(failures={"open": EngineError("no device")})))


async def test_a_bundle_without_its_window_stage_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not hold window, which a site needs"):
        await enter(running_site(tiny_bundle(tmp_path), ServeOptions(port=0)))


async def test_an_error_of_the_block_comes_out_as_itself() -> None:
    engine = FakeEngine()
    with pytest.raises(ZeroDivisionError):
        async with fake_site(engine):
            raise ZeroDivisionError
    assert what(engine) == ["open", "close"]


async def test_a_site_runs_the_engine_its_options_name(mini_bundle: Bundle) -> None:
    probe = mini_bundle.probe()
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1, backend="onnxruntime")) as site,
        aiohttp.ClientSession() as session,
    ):
        assert site.backend.startswith("onnxruntime")
        config = await Client(site, session).ask("GET", "/v2/models/window/config")
        assert config.json["parameters"]["site_digest"]["string_value"] == mini_bundle.site_digest
        answer = await site.batcher.submit(probe.inputs, ["embedding"])
    assert abs(answer["embedding"] - probe.embedding).max() <= 1e-3 * abs(probe.embedding).max()


async def test_an_unknown_backend_is_no_site() -> None:
    with pytest.raises(EngineError, match="backend 'tpu' is unknown"):
        await enter(running_site(tiny_bundle(), ServeOptions(port=0, backend="tpu")))


# Stopping


class Serving:
    """A site in a task of its own, with a client, that a test can tell to stop."""

    def __init__(self, engine: FakeEngine, grace_s: float) -> None:
        self._engine = engine
        self._grace_s = grace_s
        self._started: asyncio.Future[RunningSite] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Serving:
        self.task = asyncio.create_task(self._serve())
        self.site = await self._started
        self._session = aiohttp.ClientSession()
        self.client = Client(self.site, self._session)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop()
        if self._engine.gate:
            self._engine.gate.open()
        await self._session.close()
        await asyncio.wait([self.task])

    def stop(self) -> None:
        self._stop.set()

    async def _serve(self) -> None:
        async with fake_site(self._engine, grace_s=self._grace_s) as site:
            self._started.set_result(site)
            await self._stop.wait()


async def until_nobody_listens(site: RunningSite) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                _, writer = await dial(site)
                writer.close()
                await writer.wait_closed()
            except ConnectionRefusedError:
                return
            except ConnectionError:
                pass  # it was closed while this connection waited to be accepted


async def test_requests_under_way_finish_while_nothing_new_is_let_in() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with Serving(engine, grace_s=60) as serving:
        running = serving.client.begin(1)
        await gate.entered.wait()
        waiting = serving.client.begin(2)
        await until(lambda: serving.site.batcher.waiting == 1)
        serving.stop()
        await until_nobody_listens(serving.site)
        assert not serving.task.done()
        gate.open()
        assert (await running).holds(1)
        assert (await waiting).holds(2)
        await serving.task
    assert what(engine) == ["open", "infer", "infer", "close"]


async def test_a_site_that_stops_says_so_on_open_connections_and_hangs_up() -> None:
    gate = Gate()
    async with Serving(FakeEngine(gate), grace_s=60) as serving:
        running = serving.client.begin(1)
        await gate.entered.wait()
        connections = [await dial(serving.site) for _ in range(2)]
        for reader, writer in connections:  # each is served once, so that it is accepted
            writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: site\r\n\r\n")
            assert (await reader.readuntil(b'{"ready": true}')).startswith(b"HTTP/1.1 200")
        serving.stop()
        await until_nobody_listens(serving.site)
        asked = (b"GET /v2/health/ready HTTP/1.1\r\nHost: site\r\n\r\n", raw_infer(2))
        for (reader, writer), question in zip(connections, asked, strict=True):
            writer.write(question)
            answer = await reader.read()  # to the end: the site hangs up
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Connection: close" in answer
            writer.close()
            await writer.wait_closed()
        assert b"this site is stopping" in answer
        gate.open()
        assert (await running).holds(1)


async def test_when_grace_is_over_tiles_are_answered_503_and_the_engine_closes_after_its_call() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with Serving(engine, grace_s=0.05) as serving:
        running = serving.client.begin(1)
        await gate.entered.wait()
        waiting = serving.client.begin(2)
        await until(lambda: serving.site.batcher.waiting == 1)
        serving.stop()
        for request in (running, waiting):
            answer = await request
            assert answer.status == 503
            assert answer.error == "this site is stopping; use another one"
        assert not serving.task.done()
        assert what(engine) == ["open"]
        gate.open()
        await serving.task
    assert what(engine) == ["open", "infer", "close"]


async def test_a_sender_that_never_finishes_does_not_hold_up_the_shutdown() -> None:
    async with Serving(FakeEngine(), grace_s=0.05) as serving:
        reader, writer = await dial(serving.site)
        writer.write(raw_infer(1)[:-1])
        await writer.drain()
        assert (await serving.client.infer(2)).holds(2)
        serving.stop()
        with anyio.fail_after(10):
            await serving.task
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return keys_for(tmp_path)


def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_clients_that_stop_sending_do_not_hold_up_the_shutdown(keys: Path) -> None:
    """One in its TLS handshake, one in a head, one in a body: all are cut off, and nothing is left open."""
    async with contextlib.AsyncExitStack() as stack:
        async with fake_site(keys=keys, grace_s=0.05, handshake_s=600) as site:
            config = site_at(site.url, keys)
            token = f"Authorization: Bearer {config.token}\r\nHost".encode()
            body = raw_infer(1).replace(b"Host", token, 1)[:-1]
            for sent in (b"", b"GET / HTTP/1.1\r\nX: ", body):
                _, writer = await dial(site, tls=config.ssl_context() if sent else None)
                stack.callback(hang_up, writer)
                writer.write(sent)
            quotas = site.state.quotas
            await until(lambda: quotas.connections.taken == 3 and quotas.requests.taken == 1)
        assert (quotas.connections.taken, quotas.memory.taken) == (0, 0)


async def test_a_client_that_does_not_read_its_answers_does_not_hold_up_the_shutdown() -> None:
    asked = b"GET /v2/models/window/config HTTP/1.1\r\nHost: site\r\n\r\n"
    async with fake_site(grace_s=0.05) as site:
        reader, writer = await dial(site)
        writer.write(asked * 20_000)  # whose answers are more than the kernel keeps
        await reader.readexactly(1)
    assert site.state.quotas.connections.taken == 0
    writer.transport.abort()


async def test_idle_connections_do_not_hold_up_the_shutdown() -> None:
    async with Serving(FakeEngine(), grace_s=60) as serving:
        assert (await serving.client.infer(1)).holds(1)  # its connection is kept alive
        serving.stop()
        with anyio.fail_after(10):
            await serving.task


async def test_cancelling_the_server_shuts_it_down_in_order() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with Serving(engine, grace_s=60) as serving:
        running = serving.client.begin(1)
        await gate.entered.wait()
        serving.task.cancel()
        await until_nobody_listens(serving.site)
        gate.open()
        assert (await running).holds(1)
        with pytest.raises(asyncio.CancelledError):
            await serving.task
    assert what(engine) == ["open", "infer", "close"]


async def test_a_cancelled_scope_is_left_in_order_too() -> None:
    gate = Gate()
    engine = FakeEngine(gate)

    async def open_late(site: RunningSite) -> None:
        await until_nobody_listens(site)
        gate.open()

    async with aiohttp.ClientSession() as session:
        with anyio.CancelScope() as scope:
            async with fake_site(engine, grace_s=60) as site:
                running = Client(site, session).begin(1)
                opening = asyncio.create_task(open_late(site))
                await gate.entered.wait()
                scope.cancel()
        assert (await running).holds(1)
        await opening
    assert what(engine) == ["open", "infer", "close"]


async def test_a_stopped_site_leaves_its_port_to_the_next() -> None:
    async with fake_site() as site:
        port = int(site.url.rpartition(":")[2])
    async with connected(port=port) as client:
        assert (await client.infer(1)).holds(1)
