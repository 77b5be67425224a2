"""Clients that mean harm to a site, at a bounded rate: each kind goes on until it is cancelled.

They hold the site's client certificate, or are let in without one: who has none gets no further than the
handshake. `cut_off` counts how often a site hung up on, or refused, each kind.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
INFER = b"POST /v2/models/window/infer HTTP/1.1\r\nHost: site\r\n"
PAUSE_S = 0.05  # between a client's steps, so that ten of them do not take the machine from the site
SOURCES = 8  # addresses they come from, 127.0.0.2 onwards


@dataclass
class Hostile:
    """Ten hostile clients of one site. `request` is the bytes of a whole good request, its token included."""

    url: str
    tls: ssl.SSLContext | None
    token: str
    request: bytes
    cut_off: Counter[str] = field(default_factory=Counter)

    async def attack(self) -> None:
        """Two of each kind, and one each of the last two; until cancelled."""
        kinds = (self.drip_head, self.drip_body, self.endless_body, self.wrong_token) * 2
        async with anyio.create_task_group() as group:
            for number, kind in enumerate((*kinds, self.many_connections, self.leave_early)):
                group.start_soon(self._again, kind, f"127.0.0.{2 + number % SOURCES}")

    async def _again(self, kind: Callable[[str], Awaitable[None]], source: str) -> None:
        """A client that comes back whenever it is cut off."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await kind(source)
            self.cut_off[getattr(kind, "__name__", "")] += 1
            await anyio.sleep(PAUSE_S)

    @asynccontextmanager
    async def _dialled(self, source: str) -> AsyncIterator[Streams]:
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(
            address.hostname, address.port, ssl=self.tls, local_addr=(source, 0)
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send_slowly(self, source: str, head: bytes, piece: bytes) -> None:
        """Until the site hangs up, or answers that it has had enough."""
        async with self._dialled(source) as (reader, writer):
            writer.write(head)
            answered = asyncio.create_task(reader.read(1))
            while not answered.done():
                writer.write(piece)
                await writer.drain()
                await asyncio.wait([answered], timeout=PAUSE_S)
            await answered

    def _authorized(self, *fields: bytes) -> bytes:
        return b"".join([INFER, f"Authorization: Bearer {self.token}\r\n".encode(), *fields])

    async def drip_head(self, source: str) -> None:
        await self._send_slowly(source, self._authorized(b"X: "), b"x")

    async def drip_body(self, source: str) -> None:
        head = self._authorized(b"Inference-Header-Content-Length: 9\r\nContent-Length: 500000\r\n\r\n")
        await self._send_slowly(source, head, b"x")

    async def endless_body(self, source: str) -> None:
        head = self._authorized(b"Transfer-Encoding: chunked\r\n\r\n")
        await self._send_slowly(source, head, b"8000\r\n" + bytes(0x8000) + b"\r\n")

    async def wrong_token(self, source: str) -> None:
        """A large good request with a token of another site."""
        async with self._dialled(source) as (reader, writer):
            writer.write(self.request.replace(self.token.encode(), b"x" * len(self.token)))
            if not (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401"):
                raise AssertionError("a wrong token was let in")

    async def many_connections(self, source: str) -> None:
        """As many as are let in, which say nothing, until one is cut off."""
        address = urlsplit(self.url)
        held: list[Streams] = []
        try:
            while True:
                held.append(
                    await asyncio.open_connection(address.hostname, address.port, local_addr=(source, 0))
                )
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(held[-1][0].read(1), PAUSE_S / 10)
                    return
        finally:
            for _, writer in held:
                writer.transport.abort()

    async def leave_early(self, source: str) -> None:
        """A good request whose answer is begun to be read."""
        async with self._dialled(source) as (reader, writer):
            writer.write(self.request)
            await reader.readexactly(1)
