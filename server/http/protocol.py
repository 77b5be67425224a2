"""aiohttp's HTTP protocol where a site needs it otherwise.

- What aiohttp refuses before a request reaches the application is answered as the application answers.
- A client that closes its half of the connection after its requests gets their answers. aiohttp would take
  it for one that is gone.
- What follows the last request of a connection ("Connection: close") is left unread. aiohttp's parser would
  refuse both when they come together.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

from aiohttp import HttpVersion11, web, web_protocol
from aiohttp.http import RawRequestMessage

from server.http.app import FAILED, error_answer

PROBE_S = 0.5  # between looks whether a client that closed its half is still there
_PROBE = b"HTTP/1.1 102 Processing\r\n\r\n"  # RFC 9110, 15.2: a client reads any number of these
# Of one connection; aiohttp before 3.14 has no such limit.
_MOST_WAITING = getattr(web_protocol, "MAX_MSG_QUEUE_SIZE", math.inf)
_HEAD_END = b"\r\n\r\n"
_CHUNKS_END = b"0\r\n\r\n"
_EMPTY_LINES = re.compile(rb"[\r\n]+")
_MOST_CUTS = 64  # of a chunked body, where what is in its chunks looks like its end; then it is left whole


class SiteProtocol(web.RequestHandler):
    """aiohttp's HTTP protocol; errors of its own are {"error": one sentence} too."""

    __slots__ = (
        "_body_left",
        "_cuts",
        "_half_closed",
        "_held",
        "_message",
        "_passed",
        "_payload",
        "_probing",
        "_unanswered",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._message: Any = None  # the newest request, and its body
        self._payload: Any = None
        self._body_left = 0  # bytes of that body which are still to come, where its length is known
        self._cuts = 0  # of that body, where it looked to end if it is chunked
        self._passed = b""  # the last bytes that the parser got of what ends with a mark
        self._held = b""  # while as many requests wait as aiohttp lets wait
        self._unanswered = 0
        self._half_closed = False
        self._probing: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Pass data on request by request, up to the end of the last one.

        Without data aiohttp, which has stopped reading, goes on with what was held back.
        """
        if not data:
            self._pass_on(data)
        data, self._held = self._held + data, b""
        start = 0
        while start < len(data) and not (self._is_whole and getattr(self._message, "should_close", False)):
            if len(self._messages) >= _MOST_WAITING:
                self._held = data[start:]
                return
            end = self._end(data, start)
            self._pass_on(data[start:end])
            start = end

    @property
    def _is_whole(self) -> bool:
        """Whether the newest request was passed on to its end."""
        if getattr(self._message, "chunked", False):
            return bool(self._payload.is_eof())
        return not self._body_left

    def _end(self, data: bytes, start: int) -> int:
        """Where to cut, not behind the end of the request whose data begin at `start`."""
        if self._body_left:
            return min(start + self._body_left, len(data))
        if not self._is_whole:
            end = len(data) if self._cuts == _MOST_CUTS else self._behind(_CHUNKS_END, data, start)
            self._cuts += end < len(data)
            return end
        empty = _EMPTY_LINES.match(data, start)
        if empty and not self._passed.strip(b"\r\n"):  # before a request
            return empty.end()
        return self._behind(_HEAD_END, data, start)

    def _behind(self, mark: bytes, data: bytes, start: int) -> int:
        """Where the first mark ends, or the data."""
        seam = self._passed[1 - len(mark) :]  # the mark may have begun in what came before
        found = (seam + data[start : start + len(mark) - 1]).find(mark)
        if found >= 0:
            return start + found + len(mark) - len(seam)
        found = data.find(mark, start)
        return found + len(mark) if found >= 0 else len(data)

    def _pass_on(self, piece: bytes) -> None:
        before, body = len(self._messages), self._payload
        in_body = self._body_left > 0
        super().data_received(piece)
        if in_body:
            self._body_left -= len(piece)
        self._passed = b"" if in_body else (self._passed + piece)[-len(_CHUNKS_END) :]
        if len(self._messages) > before:
            self._unanswered += len(self._messages) - before
            self._message, self._payload = self._messages[-1]
            self._passed = b""
            if isinstance(self._message, RawRequestMessage):
                self._begin_body()
            elif body is not None and not body.is_eof():  # aiohttp would let its reader wait
                body.set_exception(web.RequestPayloadError("the body is no HTTP"))

    def _begin_body(self) -> None:
        """Of a request whose head has come, and perhaps a part of the body with it."""
        self._cuts = 0
        if not self._payload.is_eof() and not self._message.chunked:
            length = int(self._message.headers.get("Content-Length", 0))
            self._body_left = length - self._payload.total_bytes

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp's returns None alone
        """Whether to keep the connection, because requests that have come whole are not answered yet.

        Never with TLS, where asyncio closes both ways at once.
        """
        if not self._unanswered or not self._is_whole or self.ssl_context is not None:
            return False
        self._half_closed = True
        self._look_later()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._probing is not None:
            self._probing.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._probing = asyncio.get_running_loop().call_later(PROBE_S, self._look)

    def _look(self) -> None:
        """Find out whether a client that closed its half is there: one that is gone resets what is sent."""
        request = self._current_request
        if self.transport is None:
            return
        if request is not None and request.version >= HttpVersion11 and not request.writer.output_size:
            self.transport.write(_PROBE)
        self._look_later()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP; the connection is closed behind it. Logs as aiohttp does."""
        super().handle_error(request, status, exc, message)
        text = f"the request is no HTTP that can be read: {message}" if message else FAILED
        answer = error_answer(status, text)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; that to an Expect that is not known comes without passing the application."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = error_answer(resp.status, "Expect is something else than 100-continue; leave it out")
        resp, reset = await super().finish_response(request, resp, start_time)
        self._unanswered -= 1
        if self._half_closed and not self._unanswered:
            resp.force_close()  # nothing more can come
        return resp, reset
