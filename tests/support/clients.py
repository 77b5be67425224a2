"""Plain HTTP against a running site."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from server.serve import RunningSite
from stages import wire
from tests.support.fakes import OUTPUTS, FakeEngine, answers, fake_site, tiles

INFER = "/v2/models/window/infer"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json")
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an error body, after its form was checked."""
        body = self.json
        assert list(body) == ["error"]
        sentence: str = body["error"]
        assert sentence
        assert sentence.isprintable()
        return sentence

    def holds(self, *windows: int) -> bool:
        """Whether it is the fake engine's `embedding` for these windows."""
        assert self.status == 200, self.body
        got = wire.decode_response(self.body, self.headers[wire.HEADER_LENGTH], OUTPUTS[:1], len(windows))
        return bool((got["embedding"] == answers(tiles(*windows))["embedding"]).all())


class Client:
    """Plain HTTP to one site."""

    def __init__(self, site: RunningSite, session: aiohttp.ClientSession) -> None:
        self.site = site
        self._session = session

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self._session.request(method, self.site.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def infer(self, *windows: int) -> Answer:
        sent = wire.encode_request(tiles(*windows), ["embedding"])
        return await self.ask("POST", INFER, data=sent.body, headers=sent.headers)

    def begin(self, *windows: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.infer(*windows))


@asynccontextmanager
async def connected(engine: FakeEngine | None = None, **options: Any) -> AsyncIterator[Client]:
    async with fake_site(engine, **options) as site, aiohttp.ClientSession() as session:
        yield Client(site, session)


async def dial(
    site: RunningSite, source: str | None = None, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection, from the address `source` of this machine, private with `tls`."""
    address = urlsplit(site.url)
    local = (source, 0) if source else None
    return await asyncio.open_connection(address.hostname, address.port, local_addr=local, ssl=tls)


def raw_infer(*windows: int) -> bytes:
    """The bytes of a whole HTTP request."""
    sent = wire.encode_request(tiles(*windows), ["embedding"])
    lines = [
        f"POST {INFER} HTTP/1.1",
        "Host: site",
        f"Content-Length: {len(sent.body)}",
        *(f"{name}: {value}" for name, value in sent.headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + sent.body


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
