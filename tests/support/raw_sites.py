"""Sites that answer with bytes: right ones, until one request that gets bytes no HTTP library would send."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from stages import wire
from stages.bundle import Bundle
from tests.support.edge import window_stamp

CONFIG, PROBE, TILE, ANY = "config", "probe", "tile", "any"
Sender = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(status: str = "200 OK", *headers: bytes, body: bytes = b"", length: bytes | None = None) -> bytes:
    """An answer of HTTP/1.1; its Content-Length is that of the body if nothing else is said."""
    size = b"%d" % len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}".encode("latin-1"), *headers, b"Content-Length: " + size]
    return b"\r\n".join([*lines, b"", body])


def chunked(rest: bytes) -> bytes:
    """An answer whose body, in chunks, goes on with `rest`."""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rest


def endless(begin: bytes, again: bytes) -> Sender:
    """Sends `again` over and over until the other side hangs up."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0)

    return send


def dripping(begin: bytes) -> Sender:
    """Sends a byte now and then."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    return send


def digest(value: bytes) -> bytes:
    """A model config whose site digest is this JSON."""
    return http(body=b'{"parameters":{"site_digest":{"string_value":%s}}}' % value)


STEERS = b"\x1b[31m\x07\xe2\x80\xae\xe2\x80\xa8\xff"  # colour, bell, bidi override, line separator, no UTF-8


@dataclass(frozen=True)
class Hostile:
    """What a site sends when it is asked for `asked`, and words of the sentence that takes it out."""

    asked: str
    sends: bytes | Sender
    says: str


HOSTILE: Mapping[str, Hostile] = {
    "retry after a superscript": Hostile(
        CONFIG, http("503 no", b"Retry-After: 1\xc2\xb2", body=b"full"), "does not serve this now: full"
    ),
    "an error that steers the terminal": Hostile(
        CONFIG, http("500 no", body=b"no " + STEERS * 100 + b"\r\n way"), "answered 500: no ?[31m"
    ),
    "a digest that steers the terminal": Hostile(
        CONFIG, digest(b'"\\u001b[2J\\u202e\\n\\ud800%s"' % (b"x" * 5000)), "its site digest is ?[2J???xxx"
    ),
    "a reason that steers the terminal": Hostile(
        CONFIG, b"HTTP/1.1 500 " + STEERS + b"\r\nContent-Length: 0\r\n\r\n", ""
    ),
    "headers that are no UTF-8": Hostile(
        CONFIG,
        http("401 no", b"Server: \xff\xfe", b"Set-Cookie: " + STEERS, b"X-\xc2\xb2: \xff"),
        "",
    ),
    "a cookie that steers the terminal": Hostile(
        CONFIG,
        http("401 no", b"Set-Cookie: a=\x85\xc2\x9b31m; Path=\xff; Max-Age=\xc2\xb2"),
        "refuses this edge (401",
    ),
    "a length of a superscript": Hostile(CONFIG, http(length=b"\xc2\xb2"), "is no HTTP"),
    "a length beyond all": Hostile(CONFIG, http(length=b"9" * 40), "is no HTTP"),
    "a length below zero": Hostile(CONFIG, http(length=b"-1"), "is no HTTP"),
    "two lengths": Hostile(CONFIG, http("200 OK", b"Content-Length: 5", body=b"{}"), "is no HTTP"),
    "a chunk of no size": Hostile(CONFIG, chunked(b"zz\r\n"), ""),
    "a chunk beyond all": Hostile(CONFIG, chunked(b"F" * 40 + b"\r\n{}"), ""),
    "trailers": Hostile(
        CONFIG, chunked(b"2\r\n{}\r\n0\r\nX: " + STEERS + b"\r\n\r\n"), "names no site digest"
    ),
    "a small body that is a large one": Hostile(
        CONFIG,
        http("200 OK", b"Content-Encoding: gzip", body=gzip.compress(bytes(10**7))),
        "names no site digest",
    ),
    "204 with a body": Hostile(CONFIG, http("204 No Content", body=b"{}"), "is no HTTP"),
    "101": Hostile(
        CONFIG, http("101 Switching Protocols", b"Upgrade: x", b"Connection: upgrade"), "answered 101"
    ),
    "a redirect to nowhere": Hostile(
        CONFIG, http("302 x", b"Location: " + STEERS), "redirects, which is not followed"
    ),
    "a status beyond all": Hostile(CONFIG, b"HTTP/1.1 99999999999 x\r\n\r\n", "is no HTTP"),
    "another protocol": Hostile(CONFIG, b"SSH-2.0-" + STEERS + b"\r\n" * 3, "is no HTTP"),
    "nothing": Hostile(CONFIG, b"", "closed the connection"),
    "endless headers": Hostile(CONFIG, endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100), ""),
    "an endless header": Hostile(CONFIG, endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000), ""),
    "an endless body": Hostile(
        CONFIG, endless(b"HTTP/1.1 200 OK\r\n\r\n", b"y" * 65536), "sent more than"
    ),
    "deep nesting": Hostile(CONFIG, digest(b"[" * 100_000), "names no site digest"),
    "a number of a million digits": Hostile(CONFIG, digest(b"9" * 1_000_000), "names no site digest"),
    "a key twice": Hostile(
        CONFIG, http(body=b'{"parameters":{},"parameters":{}}'), "names no site digest"
    ),
    "a header length of a superscript": Hostile(
        PROBE, http("200 OK", b"Inference-Header-Content-Length: 1\xc2\xb2", body=b"{}"), "malformed answer"
    ),
    "a shape beyond all": Hostile(
        PROBE,
        http(body=b'{"outputs":[{"name":"embedding","datatype":"FP16","shape":[%s]}]}' % (b"9" * 4000)),
        "malformed answer",
    ),
    "a busy tile after a superscript": Hostile(
        TILE, http("503 no", b"Retry-After: 1\xc2\xb2", body=STEERS), "gave no answer within"
    ),
    "a tile of steering bytes": Hostile(TILE, http(body=STEERS * 100), "malformed answer"),
    "a dripping tile": Hostile(
        TILE, dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), "gave no answer within"
    ),
    "endless continues": Hostile(
        TILE, endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "gave no answer within"
    ),
}  # fmt: skip


class RawSite:
    """Answers as a site should, but with what it `sends` to those who ask for `asked`, ANY for anything."""

    def __init__(self, bundle: Bundle, asked: str, sends: bytes | Sender) -> None:
        self.bundle = bundle
        self.asked = asked
        self.sends = sends
        self.asked_times = 0
        self._probe = bundle.probe()
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(*await _read(reader), writer):
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, header_length: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        asked, right = self._right(path, header_length, body)
        if self.asked not in (asked, ANY):
            writer.write(right)
            return True
        self.asked_times += 1
        if isinstance(self.sends, bytes):
            writer.write(self.sends)
        else:
            await self.sends(writer)
        return False

    def _right(self, path: str, header_length: str, body: bytes) -> tuple[str, bytes]:
        """What a request asks for, and the right answer."""
        if path.endswith("/config"):
            return CONFIG, digest(json.dumps(self.bundle.site_digest).encode())
        if not path.endswith("/infer"):
            return "another thing", http(body=b"{}")
        stage = self.bundle.stage("window")
        inputs = wire.decode_request(body, header_length, stage.inputs, stage.outputs, 25).inputs
        is_probe = np.array_equal(inputs["tile"], self._probe.inputs["tile"])
        stamp = window_stamp(self.bundle, int(inputs["index"][0, 0]))[None]
        embedding = self._probe.embedding.astype(stamp.dtype) if is_probe else stamp
        message = wire.encode_response({"embedding": embedding}, {"embedding": True})
        headers = (f"{name}: {value}".encode() for name, value in message.headers.items())
        return PROBE if is_probe else TILE, http("200 OK", *headers, body=message.body)


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    """Path, header length and body of the next request."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return first.split()[1], headers.get(wire.HEADER_LENGTH.lower(), ""), body
