"""An HTTP endpoint of the edge on its socket: plain on loopback, with a certificate elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runtime.live.access import Access, Identity
from stages.errors import InputError
from stages.network import listen_problem


def checking_host(access: Access, what: str) -> Middleware:
    """Answers 421 to a request whose Host header names somebody else; `what` is served, for the answer."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.allows_host(request.headers.get("Host")):
            raise web.HTTPMisdirectedRequest(text=f"the {what} does not answer to this name\n")
        return await handler(request)

    return check


async def listen(runner: web.AppRunner, host: str, port: int, identity: Identity | None, what: str) -> int:
    """Listens, with TLS if there is an identity; returns the port. InputError when that cannot be."""
    site = web.TCPSite(runner, host, port, ssl_context=identity.context if identity else None)
    with _listen_errors(host, port, what):
        await site.start()
    bound: int = runner.addresses[0][1]
    return bound


@contextlib.asynccontextmanager
async def trying_to_listen(host: str, port: int, what: str) -> AsyncIterator[None]:
    """Holds the port while the block runs, answering nobody. Raises what `listen` would raise."""
    with _listen_errors(host, port, what):
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    try:
        yield
    finally:
        server.close()


@contextlib.contextmanager
def _listen_errors(host: str, port: int, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        problem = listen_problem(exc, port, "port or host")
        raise InputError(f"the {what} cannot listen on {host}:{port} {problem}") from exc


def base_url(host: str, port: int, identity: Identity | None) -> str:
    """Where to find it. Bound to every address of the machine, that is where its certificate says it is."""
    scheme = "https" if identity else "http"
    if identity and identity.names and host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        host = identity.names[0]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
