"""The connections of a site: how many may be open, and the timeouts of each.

Connections are accepted here and not by asyncio's own server, which makes the TLS objects of a connection
before its address can be looked at. A connection beyond the limits is closed as soon as it is accepted. Each
of the others has a TimeoutProtocol, a protocol between asyncio and aiohttp.
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

from server.limits import Limits, Quota, Refused, client_key

BACKLOG = 128  # connections the kernel holds until they are accepted
ACCEPT_AGAIN_S = 1.0  # pause of accepting when the process has no file descriptor left
CLOSE_S = 5.0  # for the end of a connection: the rest of a refused body, TLS's close_notify
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _RequestPhase(enum.Enum):
    IDLE = "between requests"
    HEAD = "reading the head of a request"
    BUSY = "serving a request"
    CLOSING = "no further request is read"


class TimeoutProtocol(asyncio.Protocol):
    """Passes everything on to `inner`; aborts the connection after a timeout or when a request is too large.

    One timeout runs at a time. While a request is served its handler has the timeouts, up to its answer.
    """

    def __init__(self, inner: asyncio.Protocol, limits: Limits, message_bytes: int, refused: Refused) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._inner = inner
        self._limits = limits
        self._message_bytes = message_bytes
        self._refused = refused
        self._phase = _RequestPhase.HEAD
        self._received = 0
        self._timeout: tuple[float, str | None] | None = None  # when in the loop's time, and the reason
        self._timer: asyncio.TimerHandle | None = None  # not later than that
        self._transport: asyncio.Transport | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the TLS handshake, if any, is done."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is not for a stream")
        self._transport = transport
        # So drain() waits until all is written out. With high=0 TLS takes an empty buffer for a full one.
        transport.set_write_buffer_limits(high=1, low=0)
        self._abort_after(self._limits.header_s, "header_timeout")
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._phase is _RequestPhase.IDLE:
            self._phase = _RequestPhase.HEAD
            self._abort_after(self._limits.header_s, "header_timeout")
        self._received += len(data)
        if self._received > self._message_bytes:
            # A refused body was counted already.
            self.abort("too_large" if self._phase is not _RequestPhase.CLOSING else None)
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._transport = None
        self._inner.connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def begin(self) -> None:
        """The head of a request is complete."""
        self._timeout = None
        self._phase = _RequestPhase.BUSY
        self._received = 0

    def answer(self) -> None:
        """The answer is about to be sent."""
        self._abort_after(self._limits.write_s, "write_timeout")

    def end(self, closing: bool) -> None:
        """The answer is sent; `closing` says that no further request will be read."""
        if closing:
            self._phase = _RequestPhase.CLOSING
            self._abort_after(CLOSE_S, None)
        else:
            self._phase = _RequestPhase.IDLE
            self._abort_after(self._limits.idle_s, "idle")

    def abort(self, reason: str | None) -> None:
        """Close at once, without sending what is buffered; a reason is counted as a refusal."""
        if self._transport is None:
            return
        if reason is not None:
            self._refused(reason)
        self._stop()
        self._transport.abort()

    def _abort_after(self, seconds: float, reason: str | None) -> None:
        """A timer that runs already and ends earlier stays: timeouts come and go with every request."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        self._timeout = (at, reason)
        if self._timer is None or self._timer.when() > at:
            self._stop_timer()
            self._timer = loop.call_at(at, self._look)

    def _look(self) -> None:
        """Abort if the timeout is over, else look again when it is."""
        self._timer = None
        if self._timeout is None:
            return
        loop, (at, reason) = asyncio.get_running_loop(), self._timeout
        if at <= loop.time():
            self.abort(reason)
        else:
            self._timer = loop.call_at(at, self._look)

    def _stop(self) -> None:
        self._timeout = None
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True)
class Tls:
    """TLS of an endpoint; a connection whose handshake takes longer than `handshake_s` is aborted."""

    context: ssl.SSLContext
    handshake_s: float


class Listener:
    """Accepts connections within `quota`, each with a protocol of `factory` behind a TimeoutProtocol.

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
        self._connections: dict[asyncio.Task[None], TimeoutProtocol] = {}

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
        """Stop accepting; open connections stay. Closing again does nothing."""
        loop = asyncio.get_running_loop()
        for listening in self.sockets:
            loop.remove_reader(listening)
            listening.close()
        self.sockets = []

    async def abort_all(self) -> None:
        """Abort all connections that are still open."""
        for task, protocol in self._connections.items():
            if protocol.is_connected:
                protocol.abort(None)
            else:
                task.cancel()  # in its TLS handshake
        if self._connections:
            await asyncio.wait(set(self._connections))

    def _accept(self, listening: socket.socket) -> None:
        """Accept one connection a call, so that the event loop serves others in between."""
        try:
            connection, address = listening.accept()
        except OSError as exc:
            if exc.errno in EXHAUSTED:
                self._pause(listening)
            return  # else the client disconnected before it was accepted
        client = client_key(address[0])
        if reason := self._full(client):
            self._refused(reason)
            connection.close()
            return
        connection.setblocking(False)
        self._admit(connection, client)

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)

        def resume() -> None:
            if listening in self.sockets:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(ACCEPT_AGAIN_S, resume)

    def _full(self, client: str) -> str:
        if self._quota.is_full():
            return "connections"
        return "connections_per_address" if self._quota.is_full_for(client) else ""

    def _admit(self, connection: socket.socket, client: str) -> None:
        protocol = TimeoutProtocol(self._factory(), self._limits, self._message_bytes, self._refused)
        task = asyncio.create_task(self._serve(connection, protocol))
        self._quota.take(client)
        self._connections[task] = protocol

        def release(task: asyncio.Task[None]) -> None:
            del self._connections[task]
            self._quota.release(client)

        task.add_done_callback(release)

    async def _serve(self, connection: socket.socket, protocol: TimeoutProtocol) -> None:
        """Serve the connection until it is closed."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=self._tls.handshake_s if self._tls else None,
            )
        except ConnectionResetError:
            return  # the client disconnected: no refusal
        except OSError:  # also ssl.SSLError, and asyncio's error after handshake_s
            self._refused("tls_handshake")
            return
        await protocol.closed


def _bound(addresses: list[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    """Listening sockets; an address family that this machine lacks is left out if another binds."""
    bound: list[socket.socket] = []
    unavailable: OSError | None = None
    for family, address in dict.fromkeys(addresses):
        try:
            bound.append(socket.create_server(address, family=family, backlog=BACKLOG))
            bound[-1].setblocking(False)
        except OSError as exc:
            if exc.errno not in NO_SUCH_ADDRESS:
                for listening in bound:
                    listening.close()
                raise
            unavailable = exc
    if not bound:
        raise unavailable or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return bound
