"""A request's way through the limits: a place and memory before its body is read, deadlines for both ways."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar

import anyio
import anyio.lowlevel
from aiohttp import web

from server.codec import json_bytes
from server.connections import Guard
from server.limits import JSON_BYTES, Hold, Limits, Quotas, owner_of
from stages import wire

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PIECE_BYTES = 128 * 1024  # of an answer at a time: a TLS connection takes all it is given into memory
UNPACKED_BYTES = 256 * 1024  # of a compressed body at a time, which keeps the loop for about 1 ms
ENCODINGS = ("gzip", "deflate")
REQUEST_TIMEOUT = 408


class Admission:
    """Middleware and body reader of a site; every request begins and ends in `bounded`."""

    def __init__(self, limits: Limits, quotas: Quotas) -> None:
        self._limits = limits
        self._quotas = quotas

    @web.middleware
    async def bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Send the answer within its deadline; what the request held is free again on every way out."""
        guard = _guard_of(request)
        hold = Hold(owner_of(request.remote or ""), self._quotas.requests, self._quotas.memory)
        _hold.set(hold)
        is_last = True
        if guard is not None:
            guard.begin()
        try:
            response = await handler(request)
            if response.status == REQUEST_TIMEOUT or not request.content.is_eof():
                response.force_close()  # what still comes of this body is not the next request
            response = await self._send(request, response, guard)
            is_last = not response.keep_alive
            return response
        finally:
            hold.release()
            if guard is not None:
                guard.end(closing=is_last)

    async def body(self, request: web.Request, most_bytes: int) -> bytes:
        """The unpacked body of a request for inference, which from now on holds a place and memory.

        Raises HTTPRequestEntityTooLarge, HTTPUnsupportedMediaType and Busy before anything is read,
        HTTPRequestTimeout and RequestPayloadError while it is.
        """
        header = request.headers.get(wire.HEADER_LENGTH)
        most_bytes = min(most_bytes, JSON_BYTES) if header is None else most_bytes
        declared, packed = request.content_length, _encoding(request)
        n_json = json_bytes(header, declared or 0)
        if packed or declared is None or n_json <= declared:  # else the header is wrong, as decoding tells
            _check_size(n_json, JSON_BYTES)
        _check_size(declared or 0, most_bytes)
        hold = _hold.get()
        hold.enter(most_bytes if declared is None or packed else declared)
        body = await self._read(request, packed, most_bytes)
        hold.resize(len(body))
        return body

    async def _read(self, request: web.Request, packed: str | None, most_bytes: int) -> bytes:
        body = bytearray()
        try:
            with anyio.fail_after(self._limits.read_s):
                async for part in self._unpacked(request, packed):
                    body += part
                    _check_size(len(body), most_bytes)
        except TimeoutError as exc:
            raise web.HTTPRequestTimeout(text=self._too_slow) from exc
        return bytes(body)

    @property
    def _too_slow(self) -> str:
        return (
            f"the body did not come within {self._limits.read_s:g} s, or nothing of it for "
            f"{self._limits.stall_s:g} s; send fewer tiles a request"
        )

    async def _unpacked(self, request: web.Request, packed: str | None) -> AsyncIterator[bytes]:
        if packed is None:
            async for chunk in self._chunks(request):
                yield chunk
            return
        unpacker: _Unpacker | None = None
        async for chunk in self._chunks(request):
            unpacker = unpacker or _Unpacker(packed, chunk)
            for part in unpacker.feed(chunk):
                yield part
                await anyio.lowlevel.checkpoint()  # a chunk can unpack to a thousand times its size
        if unpacker is not None:
            yield unpacker.last()

    async def _chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        while True:
            with anyio.fail_after(self._limits.stall_s):
                chunk = await request.content.readany()
            if not chunk:
                return
            yield chunk

    async def _send(
        self, request: web.Request, response: web.StreamResponse, guard: Guard | None
    ) -> web.StreamResponse:
        """What aiohttp would do after the handler, with a deadline, and by pieces when it is much."""
        body = response.body if isinstance(response, web.Response) else None
        large = body if isinstance(body, bytes) and len(body) > PIECE_BYTES else b""
        if large:
            response = _without_body(response, len(large))
        with anyio.move_on_after(self._limits.write_s) as deadline:
            try:
                await response.prepare(request)
                for start in range(0, len(large), PIECE_BYTES):
                    await response.write(memoryview(large)[start : start + PIECE_BYTES])
                await response.write_eof()
            except ConnectionError:
                pass  # the client has gone; aiohttp finds out by itself
        if deadline.cancelled_caught and guard is not None:
            guard.hang_up("write_timeout")
        return response


_hold: ContextVar[Hold] = ContextVar("hold")  # aiohttp runs every request in a context of its own


def hold_answer(n_bytes: int) -> None:
    """Hold memory for the answer of the request that is being handled. Raises Busy when there is no room."""
    hold = _hold.get()
    hold.resize(hold.n_bytes + n_bytes)


def _guard_of(request: web.Request) -> Guard | None:
    """None when the client has gone already."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Guard) else None


def _check_size(n_bytes: int, most_bytes: int) -> None:
    if n_bytes > most_bytes:
        raise web.HTTPRequestEntityTooLarge(most_bytes, n_bytes)


def _encoding(request: web.Request) -> str | None:
    """How the body is compressed."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding == "identity":
        return None
    if encoding not in ENCODINGS:
        taken = ", ".join(ENCODINGS)
        text = f"Content-Encoding {encoding!r:.40} is not taken; send {taken} or none"
        raise web.HTTPUnsupportedMediaType(text=text, headers={"Accept-Encoding": taken})
    return encoding


def _without_body(response: web.StreamResponse, size: int) -> web.StreamResponse:
    stream = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    stream.content_length = size
    if response.keep_alive is False:
        stream.force_close()
    return stream


class _Unpacker:
    """Undoes one Content-Encoding, a bounded piece at a time; "deflate" with or without zlib's header."""

    def __init__(self, encoding: str, first: bytes) -> None:
        has_header = encoding == "gzip" or first[0] & 0x0F == zlib.DEFLATED
        self._inflate = zlib.decompressobj(_WINDOW_BITS[encoding] if has_header else -zlib.MAX_WBITS)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Raises RequestPayloadError for what is not compressed so, and for what follows the end."""
        while chunk:
            if self._inflate.eof:
                raise web.RequestPayloadError("something follows the end of the compressed body")
            try:
                yield self._inflate.decompress(chunk, UNPACKED_BYTES)
            except zlib.error as exc:
                raise web.RequestPayloadError("the body is not compressed as it says") from exc
            chunk = self._inflate.unconsumed_tail or self._inflate.unused_data

    def last(self) -> bytes:
        """What is left after the last chunk. Raises RequestPayloadError when the end is missing."""
        rest = self._inflate.flush()
        if not self._inflate.eof:
            raise web.RequestPayloadError("the compressed body ends early")
        return rest


_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
