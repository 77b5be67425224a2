"""What aiohttp refuses itself is answered in JSON; half-closed clients; what follows "Connection: close"."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from server.http.protocol import PROBE_S, SiteProtocol
from server.serve import RunningSite
from tests.support.clients import connected, dial, raw_infer
from tests.support.fakes import FakeEngine, Gate, answers, fake_site, tiles, until
from tests.support.keys import keys_for, site_at
from tests.support.raw_http import chunked

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4", 400, "is no HTTP that can be read"),
        (b"\x16\x03\x01 nothing", 400, "is no HTTP that can be read"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nExpect: a miracle", 417, "Expect is something else"),
        (b"GET /v3 HTTP/1.1\r\nHost: x\r\nExpect: a miracle", 417, "Expect is something else"),
    ],
)
async def test_refusals_of_the_parser_are_json(head: bytes, status: int, words: str) -> None:
    async with connected() as client:
        reader, writer = await dial(client.site)
        writer.write(head + b"\r\nConnection: close\r\n\r\n")
        first, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert first.split(b" ")[1] == str(status).encode()
    assert b"Content-Type: application/json" in first
    (error,) = json.loads(body).values()
    assert words in error
    assert "\n" not in error


# Clients that close their half after what they asked

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: site\r\n\r\n"
READY = LIVE.replace(b"live", b"ready")
LAST = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def said(site: RunningSite, *parts: bytes, half: bool = True) -> bytes:
    """All that comes back for these parts, each sent by itself, after which `half` closes our half."""
    reader, writer = await dial(site)
    try:
        with anyio.fail_after(60):
            for part in parts:
                writer.write(part)
                await writer.drain()
                for _ in range(20):  # the site has the same loop: it accepts, and reads, meanwhile
                    await anyio.lowlevel.checkpoint()
            if half:
                writer.write_eof()
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("asked", [[LIVE], [LIVE, READY], [LIVE + READY], [LIVE + raw_infer(1) + READY]])
async def test_a_half_closed_client_gets_every_answer_and_then_the_end(asked: list[bytes]) -> None:
    requests = b"".join(asked).count(b"HTTP/1.1")
    async with connected() as client:
        got = await said(client.site, *asked)
        assert got.count(b"HTTP/1.1 200 OK") == requests
        assert got.count(b"HTTP/1.1") == requests
        await until(lambda: client.site.state.quotas.connections.taken == 0)


async def test_few_requests_of_a_connection_are_held_whatever_comes_at_once() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate)) as client:
        reader, writer = await dial(client.site)
        writer.write(raw_infer(1) + LIVE * 1000 + LAST)
        await gate.entered.wait()
        for protocol in [each for each in gc.get_objects() if isinstance(each, SiteProtocol)]:
            assert len(protocol._messages) <= 32
        gate.open()
        with anyio.fail_after(60):
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 1002
        writer.close()


async def test_more_requests_at_once_than_are_held_are_answered_too() -> None:
    async with connected() as client:
        assert (await said(client.site, LIVE * 200)).count(b"HTTP/1.1 200 OK") == 200


async def test_a_half_closed_client_whose_answer_takes_long_is_told_that_it_is_awaited() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate)) as client:
        reader, writer = await dial(client.site)
        writer.write(raw_infer(1))
        writer.write_eof()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 102 Processing\r\n\r\n"
        gate.open()
        with anyio.fail_after(60):
            answer = (await reader.read()).replace(b"HTTP/1.1 102 Processing\r\n\r\n", b"")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(answers_to(1))
        writer.close()


def answers_to(window: int) -> bytes:
    return answers(tiles(window))["embedding"].tobytes()


async def test_one_of_http_1_0_is_told_nothing_before_its_answer() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate)) as client:
        reader, writer = await dial(client.site)
        writer.write(raw_infer(1).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        writer.write_eof()
        await gate.entered.wait()
        with anyio.move_on_after(3 * PROBE_S):
            assert not await reader.read(1)
        gate.open()
        with anyio.fail_after(60):
            assert (await reader.read()).startswith(b"HTTP/1.0 200 OK")
        writer.close()


async def test_a_client_that_is_gone_altogether_leaves_the_queue() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate)) as client:
        running = client.begin(0)
        await gate.entered.wait()
        _, writer = await dial(client.site)
        writer.write(raw_infer(1))
        await until(lambda: client.site.batcher.waiting == 1)
        writer.close()
        await until(lambda: client.site.batcher.waiting == 0)
        gate.open()
        assert (await running).holds(0)


@pytest.mark.parametrize("cut", [1, 30, 200])
async def test_half_a_request_is_no_request(cut: int) -> None:
    async with connected() as client:
        assert await said(client.site, raw_infer(1)[:-cut]) == b""
        await until(lambda: client.site.state.quotas.connections.taken == 0)


async def test_a_client_that_closes_its_half_over_tls_leaves_nothing_behind(tmp_path: Path) -> None:
    """asyncio ends both ways there, whatever a protocol says."""
    keys = keys_for(tmp_path)
    async with fake_site(keys=keys) as site:
        _, writer = await dial(site, tls=site_at(site.url, keys).ssl_context())
        writer.write(LIVE)
        writer.close()
        await until(lambda: site.state.quotas.connections.taken == 0)


# What follows the last request of a connection

CHUNKED = (
    raw_infer(1).partition(b"\r\n\r\n")[0].replace(b"\r\nContent-Length: ", b"\r\nX-Length: ")
    + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(raw_infer(1).partition(b"\r\n\r\n")[2], 100)
)


def closing(request: bytes) -> bytes:
    return request.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost", 1)


@pytest.mark.parametrize(
    "last", [LAST, closing(raw_infer(1)), closing(CHUNKED)], ids=["GET", "POST", "chunked"]
)
@pytest.mark.parametrize("before", [b"", READY, raw_infer(2)], ids=["alone", "after GET", "after POST"])
@pytest.mark.parametrize(
    "more", [READY, raw_infer(3), b"\x16\x03\x01 nothing"], ids=["GET", "POST", "nonsense"]
)
async def test_what_follows_connection_close_is_ignored(last: bytes, before: bytes, more: bytes) -> None:
    engine = FakeEngine()
    async with connected(engine) as client:
        got = await said(client.site, before + last + more, half=False)
        assert got.count(b"HTTP/1.1 ") == got.count(b"HTTP/1.1 200 OK") == 1 + bool(before)
        assert client.site.state.refusals.counts == {}
    assert (3,) not in engine.batches


async def test_it_is_ignored_wherever_packets_are_cut() -> None:
    sent = closing(raw_infer(1)) + READY
    head = sent.index(b"\r\n\r\n") + 4
    cuts = [*range(head - 6, head + 3), *range(len(sent) - len(READY) - 2, len(sent))]
    async with connected() as client:
        for cut in cuts:
            got = await said(client.site, sent[:cut], sent[cut:], half=False)
            assert got.count(b"HTTP/1.1 200 OK") == got.count(b"HTTP/1.1 ") == 1, cut


async def test_a_body_that_is_no_http_is_refused_at_once_also_in_a_packet_of_its_own() -> None:
    head, _, _ = CHUNKED.partition(b"\r\n\r\n")
    async with connected() as client:
        got = await said(client.site, head + b"\r\n\r\n", b"no number\r\n", half=False)
        assert got.startswith(b"HTTP/1.1 400 ")
        assert got.count(b"HTTP/1.1 ") == 1
        assert b"the body cannot be read" in got


# How much work it is


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each piece that aiohttp's parser got."""
    passed: list[int] = []
    received = web.RequestHandler.data_received

    def noted(protocol: web.RequestHandler, data: bytes) -> None:
        passed.append(len(data))
        received(protocol, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", noted)
    return passed


FALSE_ENDS = CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + chunked(b"0\r\n\r\n" * 40_000, 200_000)


@pytest.mark.parametrize("sent", [b"\r\n" * 100_000 + READY, FALSE_ENDS], ids=["empty lines", "false ends"])
async def test_few_pieces_are_passed_on_whatever_comes(sent: bytes, pieces: list[int]) -> None:
    async with connected() as client:
        got = await said(client.site, sent + LIVE)
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 200 OK" in got
    assert sum(pieces) == len(sent + LIVE)
    assert len(pieces) < 1000  # 64, and one for each packet


@pytest.mark.parametrize("cut", [1, 100])
async def test_behind_a_body_with_false_ends_all_is_as_ever(cut: int) -> None:
    async with connected() as client:
        for last in (raw_infer(1), CHUNKED):
            for first, rest in ((FALSE_ENDS + last[:-cut], last[-cut:]), (FALSE_ENDS, last)):
                got = await said(client.site, first, rest + READY, raw_infer(2))
                assert got.count(b"HTTP/1.1 200 OK") == 3
                assert got.count(b"HTTP/1.1 ") == 4


async def test_the_next_chunked_body_is_cut_off_again(pieces: list[int]) -> None:
    async with connected() as client:
        got = await said(client.site, FALSE_ENDS, CHUNKED + READY)
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert len(READY) in pieces
