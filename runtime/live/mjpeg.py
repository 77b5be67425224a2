"""The overlay as a stream of JPEGs over HTTP (MJPEG), which browsers, players and home systems show.

It needs no video encoder, and nothing is encoded while nobody watches. Each watcher gets the newest frame
when it has taken the last one, so that a slow one sees fewer frames and holds nobody up.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.lowlevel
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runtime.live.access import Access, Identity, check_exposed, load_identity
from runtime.live.endpoint import base_url, checking_host, listen
from runtime.live.interface import Live
from runtime.live.overlays import LONGEST_PX, OverlayEncoder
from stages.tls import TOKEN

log = logging.getLogger("pedsam.mjpeg")

WHAT = "MJPEG stream"
STREAM, SNAPSHOT = "/stream.mjpg", "/snapshot.jpg"
MOST_WATCHERS = 8
REPEAT_S = 5.0  # without a new frame the last one goes out again: players give up on a silent stream
STALLED_S = 30.0  # a watcher that takes nothing for so long is hung up on
FIRST_S = 10.0  # that a snapshot waits for the first frame
SHUTDOWN_TIMEOUT_S = 1.0
_BOUNDARY = b"pedsam-frame"
_CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}"
_ON_THE_WAY_BYTES = 128 << 10  # that the system holds for a watcher: what lies there only grows old
_HELD_BYTES = 1  # that make a write wait; with 0 asyncio's TLS waits also when none are left, for ever


@dataclass(frozen=True)
class MjpegOptions:
    """`port` 0 takes a free one. `keys` is a folder from `pedsam keys --preview`, needed off loopback; a
    request then needs its token. `width` bounds the longest side in pixels, `banner` is drawn in."""

    host: str = "127.0.0.1"
    port: int = 8081
    keys: Path | None = None
    width: int = LONGEST_PX
    banner: str | None = None
    most_watchers: int = MOST_WATCHERS
    repeat_s: float = REPEAT_S
    stalled_s: float = STALLED_S


def mjpeg_identity(options: MjpegOptions) -> Identity | None:
    """The keys of the stream. Raises InputError for an address that needs some and for wrong ones."""
    check_exposed(options.host, options.keys, "the picture", WHAT, "--mjpeg-keys")
    return load_identity(options.keys) if options.keys else None


@contextlib.asynccontextmanager
async def serve_mjpeg(live: Live, options: MjpegOptions) -> AsyncIterator[str]:
    """Serves STREAM and SNAPSHOT while the block runs; gives a line that says where.

    Raises InputError for an address that may not or cannot be bound and for keys that cannot be used.
    """
    identity = mjpeg_identity(options)
    stream = _Stream(OverlayEncoder(live.frames, options.banner, options.width), options)
    runner = web.AppRunner(
        _application(stream, options.host, identity),
        access_log=None,
        logger=log,
        handler_cancellation=True,  # a watcher that hangs up is noticed between two frames too
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        port = await listen(runner, options.host, options.port, identity, WHAT)
        token = f"?token=..., with the token in {options.keys / TOKEN}" if options.keys else ""
        yield f"MJPEG at {base_url(options.host, port, identity)}{STREAM}{token}"
    finally:
        await runner.cleanup()


class _Stream:
    """What all watchers have in common."""

    def __init__(self, overlays: OverlayEncoder, options: MjpegOptions) -> None:
        self._overlays = overlays
        self._options = options
        self._watching: set[anyio.CancelScope] = set()

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        with anyio.move_on_after(FIRST_S):
            overlay = await self._overlays.after(0)
            return web.Response(body=overlay.jpeg, content_type="image/jpeg")
        raise web.HTTPServiceUnavailable(text="there is no frame yet\n", headers={"Retry-After": "5"})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Answers for as long as the watcher stays and the run lasts."""
        if len(self._watching) >= self._options.most_watchers:
            refusal = f"{self._options.most_watchers} watch already; close one\n"
            raise web.HTTPServiceUnavailable(text=refusal, headers={"Retry-After": "30"})
        response = web.StreamResponse(headers={"Content-Type": _CONTENT_TYPE})
        with anyio.CancelScope() as scope:
            self._watching.add(scope)
            try:
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._send(response, request)
            except ConnectionError:  # it has gone
                return response
            finally:
                self._watching.discard(scope)
        with contextlib.suppress(ConnectionError), anyio.move_on_after(SHUTDOWN_TIMEOUT_S / 2):
            await response.write_eof(b"" if request.method == "HEAD" else b"--\r\n")
        return response

    async def end(self, _: web.Application) -> None:
        """The run is over: every stream ends where a frame does."""
        for scope in self._watching:
            scope.cancel()

    async def _send(self, response: web.StreamResponse, request: web.Request) -> None:
        """The newest frame whenever the last one was taken, until it is cancelled or the watcher stalls.

        The line that ends a frame comes with it: without it browsers show the frame only when the next comes.
        """
        _hold_little(request)
        await response.write(b"--" + _BOUNDARY)
        version = 0
        while True:
            with anyio.move_on_after(self._options.repeat_s):
                await self._overlays.after(version)
            overlay = await self._overlays.after(0)
            version = overlay.version
            with anyio.move_on_after(self._options.stalled_s, shield=True) as stall:
                await response.write(_part(overlay.jpeg))
            if stall.cancelled_caught:
                _hang_up(request)
            await anyio.lowlevel.checkpoint()


def _hold_little(request: web.Request) -> None:
    """Have a write wait until the watcher's system has taken most of what is on its way."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_HELD_BYTES)
        if (connection := request.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_THE_WAY_BYTES)


def _hang_up(request: web.Request) -> NoReturn:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError


def _part(jpeg: bytes) -> bytes:
    head = f"\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return b"".join((head.encode("ascii"), jpeg, b"\r\n--", _BOUNDARY))


def _application(stream: _Stream, host: str, identity: Identity | None) -> web.Application:
    """Answers the names that lead here, and with an identity only requests that have its token."""
    access = Access(
        host, identity.token if identity else "", identity.names if identity else (), identity is not None
    )

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(
            {
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                # without a token any page in a browser of this machine could show the picture
                "Cross-Origin-Resource-Policy": "cross-origin" if identity else "same-origin",
            }
        )

    checks = _checking_token(access) if identity else _refusing_other_sites(access)
    application = web.Application(middlewares=[checking_host(access, WHAT), checks])
    application.on_response_prepare.append(add_headers)
    application.on_shutdown.append(stream.end)
    application.router.add_get(STREAM, stream.watch)
    application.router.add_get(SNAPSHOT, stream.snapshot)
    return application


def _checking_token(access: Access) -> Middleware:
    """Answers 401 to a request without the token, which may be in the address, as Bearer, or as the password
    of any user: players and home systems take one or the other."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not any(map(access.accepts, _tokens(request))):
            asking = {"WWW-Authenticate": 'Basic realm="pedsam", charset="UTF-8"'}
            raise web.HTTPUnauthorized(text="the stream needs the token\n", headers=asking)
        return await handler(request)

    return check


def _refusing_other_sites(access: Access) -> Middleware:
    """Answers 403 where a browser says that a page of somebody else asks: by either header, since an old one
    sends no Sec-Fetch-Site, and a picture of a page is asked for without Origin."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        own = access.allows_origin(request.headers.get("Origin"), request.headers.get("Host"))
        if not own or request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise web.HTTPForbidden(text="the stream is not for pages of others\n")
        return await handler(request)

    return check


def _tokens(request: web.Request) -> list[str]:
    """What a request gives as tokens."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    tokens = list(request.query.getall("token", []))
    if scheme.lower() == "bearer":
        tokens.append(given.strip())
    elif scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            tokens.append(base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[2])
    return tokens
