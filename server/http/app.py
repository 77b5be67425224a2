"""The HTTP application of a site: routes of the Open Inference Protocol v2 over its versions."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from server.http.admission import Admission
from server.http.codec import Codec
from server.logs import facts
from server.metrics import CONTENT_TYPE, exposition, registry_of
from server.model.batcher import ServiceUnavailable, Stopping
from server.model.versions import STAGE, Version
from server.refusals import Refusals
from server.state import Phase, SiteState
from stages import wire
from stages.bundle import Bundle
from stages.errors import WireError
from stages.json_values import brief
from stages.tensors import TensorSpec

log = logging.getLogger("pedsam.site")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEADER_BYTES = 64 * 1024  # room for the JSON header of the largest request
# Need no token: probes have none, and the answer reveals nothing.
PUBLIC_PATHS = ("/v2/health/live", "/v2/health/ready")
FAILED = "the site failed to serve this request; its log says why"
LOADING_S = 5.0  # Retry-After of a site that is loading


class Loading(ServiceUnavailable):
    """The site has not loaded its engines yet."""

    reason = "loading"

    def __init__(self) -> None:
        super().__init__("this site is loading its engine; try again later", LOADING_S)


class SiteHandlers:
    """Request handlers over the state of a site; `drain` ends what they need.

    With keys every path but PUBLIC_PATHS needs their token. Raises InputError when the limits have no room
    for one request.
    """

    def __init__(self, state: SiteState) -> None:
        self.state = state
        self.codec = Codec(state.limits.json_s)
        self.body_limit = body_limit(state.bundles.values())
        state.limits.check_room_for(self.body_limit + answer_limit(state.bundles.values()))
        self._admission = Admission(state.limits, state.quotas)
        self._registry = registry_of(state)
        self._under_way: set[asyncio.Task[Any]] = set()

    def application(self) -> web.Application:
        """An aiohttp application; its server must leave bodies compressed."""
        middlewares = [self._admission.bounded, self._track, self._errors, self._check_token]
        app = web.Application(middlewares=middlewares)
        model = f"/v2/models/{wire.MODEL}"
        app.router.add_get("/v2", self.server_metadata)
        app.router.add_get("/v2/", self.server_metadata)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.is_ready)
        app.router.add_get("/metrics", self.metrics)
        for prefix in (model, f"{model}/versions/{{version}}"):
            app.router.add_get(prefix, self.model_metadata)
            app.router.add_get(f"{prefix}/config", self.model_config)
            app.router.add_get(f"{prefix}/ready", self.is_model_ready)
            app.router.add_post(f"{prefix}/infer", self.infer)
        return app

    def health_application(self) -> web.Application:
        """An aiohttp application that answers PUBLIC_PATHS without a token, and nothing else."""
        app = web.Application(middlewares=[self._admission.bounded])
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.is_ready)
        app.router.add_route("*", "/{rest:.*}", self.unknown_path)
        return app

    async def drain(self, grace_s: float) -> int:
        """Refuse new requests; those in progress may finish within `grace_s`, then their tiles and JSON fail.

        Returns how many requests were not finished by then.
        """
        self.state.phase = Phase.STOPPING
        late: set[asyncio.Task[Any]] = set()
        if self._under_way:
            _, late = await asyncio.wait(set(self._under_way), timeout=grace_s)
        for served in self.state.versions.values():
            served.batcher.stop()
        await self.codec.close()
        return len(late)

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keep the request's task until its response is sent; when stopping, close the connection then."""
        if task := asyncio.current_task():
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        response = await handler(request)
        if self.state.phase is Phase.STOPPING:
            response.force_close()
        return response

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every failure into {"error": one sentence} with its status, and count refusals by reason.

        Nothing of the request is logged.
        """
        try:
            return await handler(request)
        except (WireError, ServiceUnavailable, web.HTTPException, web.RequestPayloadError) as exc:
            answer = self._refusal(request, exc)
            if answer.status < 500 or isinstance(exc, ServiceUnavailable):
                self.state.refusals.refused(_reason(exc))
            return answer
        except Exception:
            log.exception("a request failed", extra=facts("request_failed"))
            return error_answer(500, FAILED)

    def _refusal(self, request: web.Request, exc: Exception) -> web.Response:
        if isinstance(exc, WireError):
            return error_answer(exc.status, str(exc))
        if isinstance(exc, ServiceUnavailable):
            return error_answer(503, str(exc), {"Retry-After": str(math.ceil(exc.retry_after_s))})
        if isinstance(exc, web.HTTPException):
            kept = {name: exc.headers[name] for name in _KEPT_HEADERS if name in exc.headers}
            return error_answer(exc.status, self._sentence(request, exc), kept)
        response = error_answer(400, "the body cannot be read: its Content-Encoding or its chunks are wrong")
        response.force_close()  # where the next request would begin is unknown
        return response

    def _sentence(self, request: web.Request, exc: web.HTTPException) -> str:
        if isinstance(exc, web.HTTPNotFound):
            numbers = list(self.state.bundles)
            known = f"version{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
            return f"{request.path!r:.80} is not here; this site has model {wire.MODEL}, {known}"
        if isinstance(exc, web.HTTPMethodNotAllowed):
            allowed = " or ".join(sorted(exc.allowed_methods))
            return f"{request.path!r:.80} takes {allowed}, not {exc.method:.20}"
        if isinstance(exc, web.HTTPRequestEntityTooLarge):
            return f"{exc.text}; send fewer tiles a request, and send them as binary data"
        return exc.text or exc.reason

    @web.middleware
    async def _check_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without the token before anything else is looked at."""
        keys = self.state.keys
        if keys is None or request.path in PUBLIC_PATHS or _has_token(request, keys.token):
            return await handler(request)
        raise web.HTTPUnauthorized(text=_UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})

    async def server_metadata(self, request: web.Request) -> web.Response:
        extensions = ["binary_tensor_data", "model_configuration"]
        return _json({"name": "pedsam", "version": _own_version(), "extensions": extensions})

    async def live(self, request: web.Request) -> web.Response:
        return _json({"live": self.state.live}, 200 if self.state.live else 503)

    async def is_ready(self, request: web.Request) -> web.Response:
        return _json({"ready": self.state.ready}, 200 if self.state.ready else 503)

    async def unknown_path(self, request: web.Request) -> web.Response:
        return error_answer(404, f"this port answers GET {' and '.join(PUBLIC_PATHS)} alone")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=exposition(self._registry), headers={"Content-Type": CONTENT_TYPE})

    async def is_model_ready(self, request: web.Request) -> web.Response:
        self._check_known(request)
        return _json({"name": wire.MODEL, "ready": self.state.ready}, 200 if self.state.ready else 503)

    async def model_metadata(self, request: web.Request) -> web.Response:
        return _json(self._version(request).metadata(list(self.state.bundles)))

    async def model_config(self, request: web.Request) -> web.Response:
        return _json(self._version(request).config())

    async def infer(self, request: web.Request) -> web.Response:
        version = self._version(request)
        if self.state.phase is Phase.STOPPING:
            raise Stopping
        self._check_weights(request, version)
        header_length = wire.only_length(request.headers.getall(wire.HEADER_LENGTH, []))
        body = await self._admission.body(request, header_length, self.body_limit)
        message = await version.infer(self.codec, body, header_length)
        return web.Response(body=message.body, headers=message.headers)

    def _check_weights(self, request: web.Request, version: Version) -> None:
        """Refuse requests for other weights: a restarted site may serve others than before."""
        given = request.headers.getall("If-Match", [])
        if given and not _matches(", ".join(given), version.bundle.site_digest):
            raise web.HTTPPreconditionFailed(text=_OTHER_WEIGHTS)

    def _check_known(self, request: web.Request) -> str:
        """The number of the version a path names, or the latest."""
        number = request.match_info.get("version", self.state.latest)
        if number not in self.state.bundles:
            raise web.HTTPNotFound
        return number

    def _version(self, request: web.Request) -> Version:
        number = self._check_known(request)
        if number not in self.state.versions:
            raise Stopping if self.state.phase is Phase.STOPPING else Loading
        return self.state.versions[number]


def _matches(if_match: str, digest: str) -> bool:
    """Whether a precondition names these weights (RFC 9110, 13.1.1: a weak tag matches nothing).

    Raises WireError for one that cannot be read. aiohttp's own `if_match` takes that for no precondition.
    """
    if if_match.strip() == "*":
        return True
    if not _TAGS.fullmatch(if_match):
        raise WireError(f"If-Match is {brief(if_match)}, expected the site digest in double quotes")
    return any(not weak and tag == digest for weak, tag in _TAG.findall(if_match))


_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_TAGS = re.compile(rf"[ \t]*{_TAG.pattern}[ \t]*(?:,[ \t]*(?:{_TAG.pattern}[ \t]*)?)*")
_KEPT_HEADERS = ("Accept-Encoding", "Allow", "WWW-Authenticate")  # headers of errors that say what to do
_REASONS = {
    401: "token",
    404: "unknown_path",
    405: "method",
    408: "read_timeout",
    412: "other_weights",
    413: "too_large",
    415: "encoding",
}
_OTHER_WEIGHTS = (
    "this version has other weights than If-Match asks for; compare site_digest in the model config"
)


def _reason(exc: Exception) -> str:
    """The reason a refusal is counted by: a fixed word, nothing of the request."""
    if isinstance(exc, ServiceUnavailable):
        return exc.reason
    return _REASONS.get(exc.status, "other") if isinstance(exc, web.HTTPException) else "malformed"


class HttpLog(logging.Logger):
    """What aiohttp's server logs, without bytes of requests.

    aiohttp logs what it cannot parse as HTTP, which may be pixels when a length was wrong: that is counted
    as a refusal. Other lines are kept, with the kind of the exception in place of its text. Failures of
    handlers do not come this way.
    """

    def __init__(self, refusals: Refusals) -> None:
        super().__init__("pedsam.site.http")
        self.parent = log
        self._refusals = refusals

    def handle(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and issubclass(kind, HttpProcessingError):
            self._refusals.refused("no_http")
            return
        if kind is not None:
            record.msg = f"{record.msg} ({kind.__name__})"
            record.exc_info = None
        super().handle(record)


def _own_version() -> str:
    try:
        return version("pedsam")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"


_UNAUTHORIZED = "the token of this site is missing or wrong; send it as `Authorization: Bearer TOKEN`"


def _has_token(request: web.Request, token: str) -> bool:
    """Whether a request has the token; compared in constant time."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


def body_limit(bundles: Iterable[Bundle]) -> int:
    """Bytes of the largest request: a full batch as binary tensors, and its header.

    As JSON numbers a tile takes about four times the bytes, so that fewer fit.
    """
    return HEADER_BYTES + max(
        bundle.geometry.windows * _tile_bytes(bundle.stage(STAGE).inputs) for bundle in bundles
    )


def answer_limit(bundles: Iterable[Bundle]) -> int:
    """Bytes of the answer to a full batch that asks for every output."""
    return max(bundle.geometry.windows * _tile_bytes(bundle.stage(STAGE).outputs) for bundle in bundles)


def _tile_bytes(specs: Iterable[TensorSpec]) -> int:
    return sum(math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in specs)


def error_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """{"error": one sentence} with this status."""
    return _json({"error": " ".join(text.split())}, status, headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """As application/json without a charset, which JSON has not and KServe's client does not know."""
    body = json.dumps(value).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
