"""How many connections a site keeps, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from server.http.connections import TimeoutProtocol
from server.limits import Limits
from server.serve import RunningSite
from tests.support.clients import connected, dial, raw_infer
from tests.support.fakes import FakeEngine, Gate, fake_site, until
from tests.support.keys import keys_for

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: site\r\n\r\n"
SOON = 1.0  # seconds, in which a busy machine sends a line


@asynccontextmanager
async def dialled(
    site: RunningSite, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection from an address of this machine, closed at the end."""
    reader, writer = await dial(site, source)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the site was first
            await writer.wait_closed()


async def is_served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether this connection is answered, not closed."""
    try:
        writer.write(READY)
        answered = (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        return answered and await reader.readexactly(len(b'{"ready": true}')) == b'{"ready": true}'
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What comes until the site hangs up."""
    with anyio.fail_after(30):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


def limited(engine: FakeEngine | None = None, keys: Path | None = None, **limits: Any) -> Any:
    return fake_site(engine, keys=keys, limits=Limits(**limits))


# How many


async def test_one_connection_too_many_is_closed_unheard_and_the_others_go_on() -> None:
    async with limited(connections=2) as site, dialled(site) as first:
        async with dialled(site) as second:
            assert await is_served(*first)
            assert await is_served(*second)
            async with dialled(site) as third:
                assert not await is_served(*third)
            assert site.state.refusals.counts == {"connections": 1}
            assert await is_served(*first)
        await until(lambda: site.state.quotas.connections.taken == 1)
        async with dialled(site) as fourth:
            assert await is_served(*fourth)


async def test_one_address_cannot_take_every_connection() -> None:
    async with (
        limited(per_address=1) as site,
        dialled(site) as first,
        dialled(site) as second,
        dialled(site, "127.0.0.2") as other,
    ):
        assert await is_served(*first)
        assert not await is_served(*second)
        assert await is_served(*other)
        assert site.state.refusals.counts == {"connections_per_address": 1}


async def test_the_limit_comes_before_tls(tmp_path: Path) -> None:
    async with limited(keys=keys_for(tmp_path), connections=1) as site, dialled(site):
        await until(lambda: site.state.quotas.connections.taken == 1)  # it says nothing, not even hello
        async with dialled(site) as (reader, _):
            assert await until_closed(reader) == b""
        assert site.state.refusals.counts == {"connections": 1}


async def test_a_handshake_that_is_never_finished_is_counted_and_frees_its_place(tmp_path: Path) -> None:
    async with (
        fake_site(keys=keys_for(tmp_path), handshake_s=SOON, limits=Limits(connections=1)) as site,
        dialled(site) as (reader, _),
    ):
        assert await until_closed(reader) == b""
        await until(lambda: site.state.quotas.connections.taken == 0)
        assert site.state.refusals.counts == {"tls_handshake": 1}


async def test_who_leaves_before_the_handshake_was_not_refused(tmp_path: Path) -> None:
    """As balancers do that look whether the port is open."""
    async with limited(keys=keys_for(tmp_path)) as site:
        async with dialled(site):
            await until(lambda: site.state.quotas.connections.taken == 1)
        await until(lambda: site.state.quotas.connections.taken == 0)
        assert site.state.refusals.counts == {}


# For how long


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with limited(header_s=SOON) as site, dialled(site) as (reader, _):
        assert await until_closed(reader) == b""
        assert site.state.refusals.counts == {"header_timeout": 1}


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One byte after the other, over and over, until the site hangs up."""
    with suppress(ConnectionError):
        while True:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await anyio.sleep(0.01)


@pytest.mark.parametrize("earlier", [0, 1], ids=["the first request", "a later one"])
async def test_a_head_that_comes_byte_by_byte_does_not_buy_time(earlier: int) -> None:
    async with limited(header_s=SOON, idle_s=60) as site, dialled(site) as (reader, writer):
        for _ in range(earlier):
            assert await is_served(reader, writer)
        dripping = asyncio.create_task(drip(writer, b"GET / HTTP/1.1\r\nX: " + b"x" * 4000))
        assert await until_closed(reader) == b""
        assert site.state.refusals.counts == {"header_timeout": 1}
        await dripping


async def test_an_idle_connection_is_closed() -> None:
    async with limited(header_s=60, idle_s=SOON) as site, dialled(site) as (reader, writer):
        assert await is_served(reader, writer)
        assert await until_closed(reader) == b""
        assert site.state.refusals.counts == {"idle": 1}


async def test_a_request_that_is_served_has_all_the_time_it_needs() -> None:
    gate = Gate()
    async with (
        limited(FakeEngine(gate), header_s=SOON, idle_s=SOON, read_s=SOON, write_s=SOON) as site,
        dialled(site) as (reader, writer),
    ):
        writer.write(raw_infer(1))
        await gate.entered.wait()
        async with dialled(site) as (later, _):
            assert await until_closed(later) == b""  # so that the deadlines have passed
        gate.open()
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_timeout_begins_anew_with_every_request() -> None:
    async with limited(header_s=60, idle_s=SOON) as site, dialled(site) as (reader, writer):
        for _ in range(4):
            assert await is_served(reader, writer)
            await anyio.sleep(SOON / 2)
        assert site.state.refusals.counts == {}
        assert await until_closed(reader) == b""
        assert site.state.refusals.counts == {"idle": 1}


# Heads


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % number for number in range(1000)) + b"\r\n",
    ],
    ids=["a long line", "a long field", "many fields"],
)
async def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(head: bytes) -> None:
    async with limited() as site, dialled(site) as (reader, writer):
        writer.write(head)
        assert (await until_closed(reader)).startswith(b"HTTP/1.0 400")


class Inner(asyncio.Protocol):
    """Counts what it is passed."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


class Wire(asyncio.Transport):
    """A transport without a network, which remembers that it was aborted."""

    aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def test_a_connection_that_sends_more_than_any_request_needs_is_cut_off() -> None:
    counted: list[str] = []
    inner, wire = Inner(), Wire()
    protocol = TimeoutProtocol(inner, Limits(), 100, counted.append)
    protocol.connection_made(wire)
    for _ in range(3):
        protocol.begin()
        protocol.data_received(bytes(100))
        protocol.end(closing=False)
    assert (inner.received, wire.aborted) == (300, False)
    protocol.data_received(b"x")
    assert (inner.received, wire.aborted, counted) == (300, True, ["too_large"])
    protocol.connection_lost(None)
    assert protocol.closed.done()


async def flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    """The same over and over, as fast as it goes, until the site hangs up."""
    with suppress(ConnectionError), anyio.fail_after(60):
        while True:
            writer.write(data)
            await writer.drain()


@pytest.mark.parametrize("path", [b"/v2/models/other/infer", b"/v2/models/window/infer"])
async def test_an_endless_body_is_cut_off(path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with limited(read_s=60) as site, dialled(site) as (_, writer):
        writer.write(head)
        await flood(writer, b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        await until(lambda: site.state.quotas.connections.taken == 0)
        assert site.state.quotas.memory.taken == 0
        assert sum(site.state.refusals.counts.values()) == 1
    async with connected() as client:
        assert (await client.infer(1)).holds(1)
