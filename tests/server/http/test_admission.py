"""What one request may take of a site: time for its body and its answer, places and memory."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import numpy as np
import pytest

from server.limits import JSON_BYTES, MIB, Limits
from server.serve import RunningSite, ServeOptions, running_site
from stages import wire
from stages.engines.engine import Engine
from stages.errors import InputError
from stages.tensors import Array, TensorSpec
from tests.support.clients import INFER, Client, connected, dial, raw_infer
from tests.support.fakes import STAGE, FakeEngine, Gate, fake_site, tiles, tiny_bundle, until
from tests.support.keys import keys_for, site_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

SOON = 0.2  # seconds: what has this deadline never comes
WIDE = replace(STAGE, inputs=(TensorSpec("tile", "uint8", ("n", 224, 224, 3)), *STAGE.inputs[1:]))
TINY_BODY = 67_036  # bytes of the largest request of the tiny model: 25 tiles of 60 bytes and a header


@asynccontextmanager
async def sending(
    site: RunningSite, data: bytes, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection that has sent this much."""
    reader, writer = await dial(site, source)
    writer.write(data)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the site was first
            await writer.wait_closed()


def head(path: str = INFER, **fields: object) -> bytes:
    """The head of a POST; a field's name is written with _ for -."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: site", *lines, "", ""]).encode()


def assert_holds_nothing(site: RunningSite) -> None:
    assert (site.state.quotas.requests.taken, site.state.quotas.memory.taken) == (0, 0)


# Slow bodies


@pytest.mark.parametrize("slow", [{"read_s": SOON, "stall_s": 60}, {"read_s": 60, "stall_s": SOON}])
async def test_a_body_that_does_not_come_is_answered_408_and_the_connection_closed(
    slow: dict[str, float],
) -> None:
    engine = FakeEngine()
    async with (
        fake_site(engine, limits=Limits(**slow)) as site,  # type: ignore[arg-type]
        sending(site, raw_infer(1)[:-1]) as (reader, _),
    ):
        answer = await reader.read()  # to the end
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body did not come within " in answer
        assert site.state.refusals.counts == {"read_timeout": 1}
        assert_holds_nothing(site)
    assert engine.batches == []


async def test_a_body_that_comes_byte_by_byte_does_not_buy_time() -> None:
    async with (
        fake_site(limits=Limits(read_s=SOON)) as site,
        sending(site, head(Transfer_Encoding="chunked")) as (reader, writer),
    ):

        async def drip() -> None:
            with suppress(ConnectionError):
                while True:
                    writer.write(b"1\r\nx\r\n")
                    await writer.drain()
                    await anyio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")
        await dripping  # it is hung up on


# Places and memory


async def test_memory_is_held_for_a_body_before_it_comes_and_free_when_the_sender_leaves() -> None:
    async with fake_site() as site:
        async with sending(site, head(Content_Length=1234)):
            await until(lambda: site.state.quotas.memory.taken == 1234)
            async with sending(site, head(Transfer_Encoding="chunked", Inference_Header_Content_Length=10)):
                await until(lambda: site.state.quotas.memory.taken == 1234 + TINY_BODY)
                assert site.state.quotas.requests.taken == 2
        await until(lambda: site.state.quotas.requests.taken == 0)
        assert_holds_nothing(site)


async def test_who_finds_no_place_is_told_to_come_back() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate), limits=Limits(requests=2)) as client:
        running = client.begin(1)
        await gate.entered.wait()
        refused = await client.infer(2)
        assert refused.status == 503
        assert refused.error == "this site has as many requests under way as it takes; try again in 1 s"
        assert refused.headers["Retry-After"] == "1"
        assert client.site.state.refusals.counts == {"busy": 1}
        async with sending(client.site, raw_infer(2), source="127.0.0.2"):  # another address
            await until(lambda: client.site.state.quotas.requests.taken == 2)
        gate.open()
        assert (await running).holds(1)
        assert (await client.infer(2)).holds(2)
        await until(lambda: client.site.state.quotas.requests.taken == 0)
        assert_holds_nothing(client.site)


async def test_one_address_takes_half_of_the_memory_at_most() -> None:
    big = head(Content_Length=65_000, Inference_Header_Content_Length=10)
    async with connected(limits=Limits(memory_mib=1)) as client:
        async with anyio.create_task_group() as senders:
            stop = asyncio.Event()

            async def hold() -> None:
                async with sending(client.site, big):
                    await stop.wait()

            for _ in range(8):  # 8 x 65,000 bytes are just under half a MiB
                senders.start_soon(hold)
            await until(lambda: client.site.state.quotas.memory.taken == 8 * 65_000)
            async with sending(client.site, big) as (reader, _):
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 503")
            async with sending(client.site, big, source="127.0.0.2"):
                await until(lambda: client.site.state.quotas.memory.taken == 9 * 65_000)
            stop.set()
        assert (await client.infer(1)).holds(1)


async def test_a_site_without_room_for_one_request_does_not_start() -> None:
    site = running_site(
        tiny_bundle(stage=WIDE), ServeOptions(port=0, limits=Limits(memory_mib=7)), lambda _: FakeEngine()
    )
    with pytest.raises(InputError, match="--max-memory 7; give at least 8"):
        await site.__aenter__()


async def test_a_wrong_token_holds_nothing_and_is_answered_before_its_body_comes(tmp_path: Path) -> None:
    keys = keys_for(tmp_path)
    async with fake_site(keys=keys) as site:
        config = site_at(site.url, keys)

        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        async with (
            aiohttp.ClientSession(site.url) as session,
            session.post(INFER, data=never(), ssl=config.ssl_context() or True) as answer,
        ):
            assert answer.status == 401
            assert_holds_nothing(site)
            assert site.state.refusals.counts == {"token": 1}


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/window"])
async def test_a_body_nobody_wants_holds_nothing(path: str) -> None:
    async with (
        fake_site() as site,
        sending(site, head(path, Content_Length=60_000) + b"{") as (reader, _),
    ):
        assert (await reader.readuntil(b"\r\n")).startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
        assert_holds_nothing(site)


# JSON


class LargeTiles(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        Engine.__init__(self, WIDE)


async def test_json_of_more_than_a_tile_or_so_is_refused_unread() -> None:
    options = ServeOptions(port=0)
    async with (
        running_site(tiny_bundle(stage=WIDE), options, lambda _: LargeTiles()) as site,
        aiohttp.ClientSession() as session,
    ):
        for sent in (
            head(Content_Length=JSON_BYTES + 1),
            head(Content_Length=3 * MIB, Inference_Header_Content_Length=JSON_BYTES + 1),
        ):
            async with sending(site, sent) as (reader, _):
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 413")
                assert b"Maximum request body size 1048576 exceeded" in answer
                assert b"send them as binary data" in answer
        assert site.state.refusals.counts == {"too_large": 2}
        assert (await Client(site, session).ask("GET", "/v2")).status == 200


# Compressed bodies


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
)
async def test_compressed_bodies_are_taken(encoding: str, pack: Any) -> None:
    sent = wire.encode_request(tiles(3, 9), ["embedding"])
    headers = {**sent.headers, "Content-Encoding": encoding}
    async with connected() as client:
        assert (await client.ask("POST", INFER, data=pack(sent.body), headers=headers)).holds(3, 9)


@pytest.mark.parametrize("damage", [lambda body: body[:-9], lambda body: body + b"more"])
async def test_a_compressed_body_that_ends_early_or_late_is_refused(damage: Any) -> None:
    sent = wire.encode_request(tiles(3, 9), ["embedding"])
    headers = {**sent.headers, "Content-Encoding": "gzip"}
    async with connected() as client:
        answer = await client.ask("POST", INFER, data=damage(gzip.compress(sent.body)), headers=headers)
        assert answer.status == 400
        assert "the body cannot be read: its Content-Encoding" in answer.error


async def test_other_encodings_are_not_taken() -> None:
    async with connected() as client:
        answer = await client.ask("POST", INFER, data=b"x", headers={"Content-Encoding": "br"})
        assert answer.status == 415
        assert answer.error == "Content-Encoding 'br' is not taken; send gzip, deflate or none"
        assert answer.headers["Accept-Encoding"] == "gzip, deflate"


# Answers


ANSWER_BYTES = 6 * MIB  # more than the kernel keeps for a connection
LARGE = replace(STAGE, outputs=(TensorSpec("embedding", "float16", ("n", 1024, 1024, 3)), *STAGE.outputs[1:]))


class LargeAnswers(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        Engine.__init__(self, LARGE)

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"embedding": np.ones((len(feeds["index"]), 1024, 1024, 3), np.float16)}


def large_answers(keys: Path | None = None, **limits: Any) -> AbstractAsyncContextManager[RunningSite]:
    options = ServeOptions(port=0, keys=keys, limits=Limits(memory_mib=512, **limits))
    return running_site(tiny_bundle(stage=LARGE), options, lambda _: LargeAnswers())


async def test_an_answer_of_many_pieces_comes_whole_and_the_connection_goes_on() -> None:
    async with large_answers() as site, aiohttp.ClientSession() as session:
        for _ in range(2):
            answer = await Client(site, session).infer(1)
            assert answer.headers["Content-Length"] == str(len(answer.body))
            got = wire.decode_response(answer.body, answer.headers[wire.HEADER_LENGTH], LARGE.outputs[:1], 1)
            assert (got["embedding"] == 1).all()
        await until(lambda: site.state.quotas.connections.taken == 1)
        assert_holds_nothing(site)


async def dial_tls(site: RunningSite, keys: Path, **options: Any) -> tuple[asyncio.StreamReader, Any, bytes]:
    """A bare connection with the site's client certificate, and the header field with its token."""
    config = site_at(site.url, keys)
    host, _, port = site.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=config.ssl_context(), **options)
    return reader, writer, f"Authorization: Bearer {config.token}\r\n".encode()


@pytest.mark.parametrize("private", [False, True], ids=["plain", "TLS"])
async def test_an_answer_that_is_not_read_is_given_up(private: bool, tmp_path: Path) -> None:
    """What is not sent stays counted, and is a piece or two in memory besides: TLS keeps no copy."""
    keys = keys_for(tmp_path)
    async with large_answers(keys if private else None, write_s=1.0) as site:
        if private:
            _, writer, token = await dial_tls(site, keys, limit=1024)
        else:
            (_, writer), token = await dial(site), b""
        writer.write(raw_infer(1).replace(b"\r\n", b"\r\n" + token, 1))
        await until(lambda: site.state.quotas.memory.taken > ANSWER_BYTES)
        await until(lambda: site.state.refusals.counts == {"write_timeout": 1})
        await until(lambda: site.state.quotas.connections.taken == 0)
        assert_holds_nothing(site)
        writer.transport.abort()  # a polite farewell would wait for what it did not read


async def test_an_answer_over_tls_is_sent_once_the_kernel_has_it(tmp_path: Path) -> None:
    """However many reads its request took: asyncio's TLS reckons its flow control after each."""
    keys = keys_for(tmp_path)
    engine = FakeEngine()
    async with fake_site(engine, keys=keys, limits=Limits(write_s=1.0)) as site:
        reader, writer, token = await dial_tls(site, keys)
        for parts in (1, 2, 1, 2):
            engine.calls.clear()
            request = raw_infer(1).replace(b"\r\n", b"\r\n" + token, 1)
            if parts == 2:
                writer.write(request[:-1])
                await until(lambda: site.state.quotas.requests.taken == 1)
                writer.write(request[-1:])
            else:
                writer.write(request)
            await until(lambda: len(engine.batches) > 0)
            await until(lambda: site.state.quotas.requests.taken == 0)
            answered = await reader.readuntil(b"\r\n\r\n")
            assert answered.startswith(b"HTTP/1.1 200")
            _, _, length = answered.partition(b"\r\nContent-Length: ")
            await reader.readexactly(int(length.partition(b"\r\n")[0]))
        assert site.state.refusals.counts == {}
        writer.transport.abort()


async def test_a_client_that_leaves_in_the_middle_of_its_answer_leaves_nothing_behind() -> None:
    async with large_answers() as site:
        async with sending(site, raw_infer(1)) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            assert site.state.quotas.memory.taken > ANSWER_BYTES
        await until(lambda: site.state.quotas.connections.taken == 0)
        assert_holds_nothing(site)
        assert site.state.refusals.counts == {}
