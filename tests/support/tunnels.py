"""A line to a server that can be cut, as one through ssh is when a laptop sleeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream


class Tunnel:
    """Hands bytes on between whoever connects to `port` and a server on this machine."""

    def __init__(self, port: int, server: int) -> None:
        self.port = port
        self._server = server
        self._open: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        """End every connection, without a word from either side. New ones are taken."""
        for scope in self._open:
            scope.cancel()

    async def serve(self, viewer: SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            server = await anyio.connect_tcp("127.0.0.1", self._server)
            async with viewer, server, anyio.create_task_group() as tasks:
                tasks.start_soon(_hand_on, viewer, server, scope)
                tasks.start_soon(_hand_on, server, viewer, scope)
        self._open.discard(scope)


async def _hand_on(source: SocketStream, target: SocketStream, both: anyio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    both.cancel()


@asynccontextmanager
async def tunnel(server: int) -> AsyncIterator[Tunnel]:
    """A tunnel on a free port to a server's port, both on 127.0.0.1."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    made = Tunnel(listener.extra(SocketAttribute.local_port), server)  # noqa: S610  (anyio's, not Django's)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, made.serve)
        yield made
        tasks.cancel_scope.cancel()
