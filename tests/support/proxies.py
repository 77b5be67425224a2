"""A proxy before a real site, which does with tiles and requests what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from stages import wire
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.edge import Behaviour, Impostor


class Proxy(Impostor):
    """Hands probes and tiles on to the site at `target`; `script` and `always` are those of an Impostor."""

    def __init__(
        self, bundle: Bundle, target: str, *script: Behaviour, always: Behaviour | None = None
    ) -> None:
        super().__init__(bundle, *script, always=always)
        self._target = target
        self._http: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self, port: int | None = None) -> AsyncIterator[str]:
        async with aiohttp.ClientSession() as self._http, super().running(port) as url:
            yield url

    async def answer(self, request: web.Request, embedding: Array | None = None) -> web.Response:
        """What the real site answers."""
        assert self._http is not None
        headers = {wire.HEADER_LENGTH: request.headers[wire.HEADER_LENGTH]}
        posted = self._http.post(self._target + request.path, data=await request.read(), headers=headers)
        async with posted as response:
            kept = {k: v for k, v in response.headers.items() if k == wire.HEADER_LENGTH}
            return web.Response(status=response.status, body=await response.read(), headers=kept)


async def forward(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Answers as ever."""
    return await site.answer(request)


async def held(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Answers as ever, but not before `released` is set."""
    await site.released.wait()
    if request.method == "GET":
        return web.json_response({"parameters": {"site_digest": {"string_value": site.digest}}})
    return await site.answer(request)
