"""Servers behind TLS for tests: the bundled one with keys, and others with a site's certificate."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from runtime.sites.config import SiteConfig
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from tests.support.keys import site_at

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site_with(bundle: Bundle, keys: Path) -> AsyncIterator[SiteConfig]:
    """The bundled server with these keys, and how the edge that made them reaches it."""
    async with running_site(bundle, ServeOptions(port=0, threads=1, keys=keys)) as running:
        yield site_at(running.url, keys)


def server_context(keys: Path) -> ssl.SSLContext:
    """A server's TLS settings that check neither dates nor clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    return context


@asynccontextmanager
async def answering(handler: Handler, keys: Path) -> AsyncIterator[str]:
    """Another server than ours, with a site's certificate, that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(keys)).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def nothing(request: web.Request) -> web.StreamResponse:
    return web.Response()
