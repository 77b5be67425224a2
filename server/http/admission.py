"""Admission of requests: a slot and memory are reserved before a body is read; both ways have timeouts."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar

import anyio
import anyio.lowlevel
from aiohttp import web

from server.http.codec import json_bytes
from server.http.connections import TimeoutProtocol
from server.limits import JSON_BYTES, Limits, Quotas, Reservation, client_key
from stages.body_parts import BodyParts

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CHUNK_BYTES = 128 * 1024  # of a response at a time: a TLS connection buffers all it is given
DECOMPRESSED_BYTES = 256 * 1024  # of a compressed body at a time, which blocks the event loop for 1 ms
ENCODINGS = ("gzip", "deflate")
REQUEST_TIMEOUT = 408


class Admission:
    """Middleware and body reader of a site; every request begins and ends in `bounded`, the outermost one."""

    def __init__(self, limits: Limits, quotas: Quotas) -> None:
        self._limits = limits
        self._quotas = quotas

    @web.middleware
    async def bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Send the response within its deadline; whatever happens, what the request reserved is released."""
        protocol = _protocol_of(request)
        client, quotas = client_key(request.remote or ""), self._quotas
        reservation = Reservation(client, quotas.requests, quotas.memory)
        _reservation.set(reservation)
        closing = True
        if protocol is not None:
            protocol.begin()
        try:
            response = await handler(request)
            if response.status == REQUEST_TIMEOUT or not request.content.is_eof():
                response.force_close()  # the rest of this body is not the next request
            response = await self._send(request, response, protocol)
            closing = not response.keep_alive
            return response
        finally:
            reservation.release()
            if protocol is not None:
                protocol.end(closing=closing)

    async def body(self, request: web.Request, header_length: str | None, max_bytes: int) -> bytes:
        """The decompressed body of a request for inference, which from now on has a slot and memory reserved.

        `header_length` is the text of Inference-Header-Content-Length, if it was sent.

        Raises HTTPRequestEntityTooLarge, HTTPUnsupportedMediaType and Busy before anything is read,
        HTTPRequestTimeout and RequestPayloadError while it is.
        """
        max_bytes = min(max_bytes, JSON_BYTES) if header_length is None else max_bytes
        declared, packed = request.content_length, _encoding(request)
        n_json = json_bytes(header_length, declared or 0)
        # A header beyond the body is wrong, which decoding refuses.
        if packed or declared is None or n_json <= declared:
            _check_size(n_json, JSON_BYTES)
        _check_size(declared or 0, max_bytes)
        reservation = _reservation.get()
        reservation.enter(max_bytes if declared is None or packed else declared)
        body = await self._read(request, packed, max_bytes)
        reservation.resize(len(body))
        return body

    async def _read(self, request: web.Request, packed: str | None, max_bytes: int) -> bytes:
        if packed is None and request.content.is_eof():  # it came with its head
            whole = request.content.read_nowait()
            _check_size(len(whole), max_bytes)
            return whole
        parts = BodyParts()
        try:
            with anyio.fail_after(self._limits.read_s):
                async for part in self._decompressed(request, packed):
                    parts.add(part)
                    _check_size(parts.size, max_bytes)
        except TimeoutError as exc:
            raise web.HTTPRequestTimeout(text=self._too_slow) from exc
        return parts.whole()

    @property
    def _too_slow(self) -> str:
        return (
            f"the body did not come within {self._limits.read_s:g} s, or nothing of it for "
            f"{self._limits.stall_s:g} s; send fewer tiles a request"
        )

    async def _decompressed(self, request: web.Request, packed: str | None) -> AsyncIterator[bytes]:
        if packed is None:
            async for chunk in self._chunks(request):
                yield chunk
            return
        decompressor: _Decompressor | None = None
        async for chunk in self._chunks(request):
            decompressor = decompressor or _Decompressor(packed, chunk)
            for part in decompressor.feed(chunk):
                yield part
                await anyio.lowlevel.checkpoint()  # a chunk can decompress to a thousand times its size
        if decompressor is not None:
            yield decompressor.last()

    async def _chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        content = request.content
        while not content.at_eof():
            chunk = content.read_nowait()
            if not chunk:
                with anyio.fail_after(self._limits.stall_s):
                    chunk = await content.readany()
            if chunk:
                yield chunk

    async def _send(
        self, request: web.Request, response: web.StreamResponse, protocol: TimeoutProtocol | None
    ) -> web.StreamResponse:
        """What aiohttp does after the handler, with a deadline of the connection, and in chunks where the
        body is large."""
        body = response.body if isinstance(response, web.Response) else None
        large = body if isinstance(body, bytes) and len(body) > CHUNK_BYTES else b""
        if large:
            response = _without_body(response, len(large))
        if protocol is not None:
            protocol.answer()
        try:
            await response.prepare(request)
            for start in range(0, len(large), CHUNK_BYTES):
                await response.write(memoryview(large)[start : start + CHUNK_BYTES])
            await response.write_eof()
        except ConnectionError:
            pass  # the client has disconnected, or was too slow; aiohttp notices by itself
        return response


# aiohttp runs every request in a context of its own.
_reservation: ContextVar[Reservation] = ContextVar("reservation")


def reserve_answer(n_bytes: int) -> None:
    """Reserve memory for the response to the current request. Raises Busy when there is no room."""
    reservation = _reservation.get()
    reservation.resize(reservation.n_bytes + n_bytes)


def _protocol_of(request: web.Request) -> TimeoutProtocol | None:
    """None when the client has disconnected already."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, TimeoutProtocol) else None


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, n_bytes)


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


class _Decompressor:
    """Decompresses one Content-Encoding in bounded pieces; "deflate" with or without zlib's header."""

    def __init__(self, encoding: str, first: bytes) -> None:
        has_header = encoding == "gzip" or first[0] & 0x0F == zlib.DEFLATED
        self._inflate = zlib.decompressobj(_WINDOW_BITS[encoding] if has_header else -zlib.MAX_WBITS)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Raises RequestPayloadError for malformed data and for data after the end of the stream."""
        while chunk:
            if self._inflate.eof:
                raise web.RequestPayloadError("something follows the end of the compressed body")
            try:
                yield self._inflate.decompress(chunk, DECOMPRESSED_BYTES)
            except zlib.error as exc:
                raise web.RequestPayloadError("the body is not compressed as it says") from exc
            chunk = self._inflate.unconsumed_tail or self._inflate.unused_data

    def last(self) -> bytes:
        """The rest after the last chunk. Raises RequestPayloadError for a stream that is cut off."""
        rest = self._inflate.flush()
        if not self._inflate.eof:
            raise web.RequestPayloadError("the compressed body ends early")
        return rest


_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
