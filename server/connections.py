"""The connections of a site: how many there may be, and how long each may take for what.

Connections are accepted here and not by asyncio's own server, which would make the TLS objects of a
connection before anyone can ask who it is from. One beyond the limits is closed as soon as it is accepted.
Each of the others is watched by a Guard between asyncio and aiohttp.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.limits import Limits, Quota, Refused, owner_of

BACKLOG = 128  # connections the kernel holds until they are accepted
OUT_OF_FILES_S = 1.0  # until the next look when the process has no file descriptor left
CLOSE_S = 5.0  # for what belongs to the end of a connection: the rest of a refused body, TLS's farewell
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _Phase(enum.Enum):
    IDLE = "waits for a request"
    HEAD = "reads the head of a request"
    BUSY = "serves a request"
    CLOSING = "is not to be used again"


class Guard(asyncio.Protocol):
    """Passes everything on to `inner` and hangs up when it takes too long or brings too much.

    A connection has one deadline at a time, except while a request is served: then its handler has them.
    """

    def __init__(self, inner: asyncio.Protocol, limits: Limits, message_bytes: int, refused: Refused) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._inner = inner
        self._limits = limits
        self._message_bytes = message_bytes
        self._refused = refused
        self._phase = _Phase.HEAD
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def is_connected(self) -> bool:
        """Whether HTTP can be spoken: a TLS handshake is over."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is not for a stream")
        self._transport = transport
        # What was written has left this process then. At 0 TLS would take an empty buffer for a full one.
        transport.set_write_buffer_limits(high=1, low=0)
        self._hang_up_after(self._limits.header_s, "header_timeout")
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.IDLE:
            self._phase = _Phase.HEAD
            self._hang_up_after(self._limits.header_s, "header_timeout")
        self._received += len(data)
        if self._received > self._message_bytes:
            self.hang_up("too_large" if self._phase is not _Phase.CLOSING else None)  # it was refused before
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._transport = None
        self._inner.connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def begin(self) -> None:
        """The head of a request is complete."""
        self._stop_timer()
        self._phase = _Phase.BUSY
        self._received = 0

    def end(self, closing: bool) -> None:
        """The answer is sent; `closing` says that no further request will be read."""
        if closing:
            self._phase = _Phase.CLOSING
            self._hang_up_after(CLOSE_S, None)
        else:
            self._phase = _Phase.IDLE
            self._hang_up_after(self._limits.idle_s, "idle")

    def hang_up(self, reason: str | None) -> None:
        """Close at once, whatever was not sent; a reason is counted."""
        if self._transport is None:
            return
        if reason is not None:
            self._refused(reason)
        self._stop_timer()
        self._transport.abort()

    def _hang_up_after(self, seconds: float, reason: str | None) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.hang_up, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True)
class Tls:
    """How connections are made private; who has not finished the handshake after `handshake_s` is cut off."""

    context: ssl.SSLContext
    handshake_s: float


class Listener:
    """Accepts connections within `quota`, each with a protocol of `factory` behind a Guard.

    `message_bytes` bounds what a connection may send for one request, its body's chunking included.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        limits: Limits,
        quota: Quota,
        message_bytes: int,
        refused: Refused,
        tls: Tls | None = None,
    ) -> None:
        self.sockets: list[socket.socket] = []
        self._factory = factory
        self._limits = limits
        self._message_bytes = message_bytes
        self._refused = refused
        self._tls = tls
        self._quota = quota
        self._guards: dict[asyncio.Task[None], Guard] = {}

    @property
    def url(self) -> str:
        """Where HTTP is answered: the address bound first, as a name can stand for several."""
        host, port = self.sockets[0].getsockname()[:2]
        scheme = "https" if self._tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def listen(self, host: str, port: int) -> None:
        """Listen on every address of `host`. Raises OSError or UnicodeError when there is none to bind."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            self.sockets = _bound([(family, address) for family, _, _, _, address in found])
        except OSError:
            self.close()
            raise
        for listening in self.sockets:
            loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more; connections that are open stay. Closing again does nothing."""
        loop = asyncio.get_running_loop()
        for listening in self.sockets:
            loop.remove_reader(listening)
            listening.close()
        self.sockets = []

    async def cut_off(self) -> None:
        """Hang up on everyone who is still connected."""
        for task, guard in self._guards.items():
            if guard.is_connected:
                guard.hang_up(None)
            else:
                task.cancel()  # in its TLS handshake
        if self._guards:
            await asyncio.wait(set(self._guards))

    def _accept(self, listening: socket.socket) -> None:
        """Accept one connection: the loop comes back for the next, after everybody else's turn."""
        try:
            connection, address = listening.accept()
        except OSError as exc:
            if exc.errno in EXHAUSTED:
                self._pause(listening)
            return  # else it went away before it was accepted
        owner = owner_of(address[0])
        if reason := self._full(owner):
            self._refused(reason)
            connection.close()
            return
        connection.setblocking(False)
        self._admit(connection, owner)

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)

        def resume() -> None:
            if listening in self.sockets:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(OUT_OF_FILES_S, resume)

    def _full(self, owner: str) -> str:
        if self._quota.is_full():
            return "connections"
        return "connections_per_address" if self._quota.is_full_for(owner) else ""

    def _admit(self, connection: socket.socket, owner: str) -> None:
        guard = Guard(self._factory(), self._limits, self._message_bytes, self._refused)
        task = asyncio.create_task(self._serve(connection, guard))
        self._quota.take(owner)
        self._guards[task] = guard

        def leave(task: asyncio.Task[None]) -> None:
            del self._guards[task]
            self._quota.take(owner, -1)

        task.add_done_callback(leave)

    async def _serve(self, connection: socket.socket, guard: Guard) -> None:
        """Until the connection is gone."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guard,
                connection,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=self._tls.handshake_s if self._tls else None,
            )
        except ConnectionResetError:
            return  # who leaves by himself was not refused
        except OSError:  # also ssl.SSLError, and what asyncio raises when it took too long
            self._refused("tls_handshake")
            return
        await guard.closed


def _bound(addresses: list[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    """Sockets that listen on these; a family this machine lacks is left out, as long as another binds."""
    bound: list[socket.socket] = []
    lacking: OSError | None = None
    for family, address in dict.fromkeys(addresses):
        try:
            bound.append(socket.create_server(address, family=family, backlog=BACKLOG))
            bound[-1].setblocking(False)
        except OSError as exc:
            if exc.errno not in NO_SUCH_ADDRESS:
                for listening in bound:
                    listening.close()
                raise
            lacking = exc
    if not bound:
        raise lacking or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return bound
