"""What aiohttp refuses before a request reaches the application, answered as the application answers."""

from __future__ import annotations

from aiohttp import web

from server.http.app import FAILED, error_answer


class SiteProtocol(web.RequestHandler):
    """aiohttp's HTTP protocol; errors of its own are {"error": one sentence} too."""

    __slots__ = ()

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
        return await super().finish_response(request, resp, start_time)
