"""The HTTP face of a site: Open Inference Protocol v2 routes over one Batcher."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from aiohttp import web

from server.admission import Admission, hold_answer
from server.batcher import Batcher, NotNow, Stopping
from server.codec import Codec, answer_bytes
from server.limits import Limits
from server.refusals import Refusals
from stages import wire
from stages.bundle import Bundle, Stage
from stages.errors import WireError
from stages.geometry import Geometry
from stages.tensors import TensorSpec

log = logging.getLogger("pedsam.site")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEADER_BYTES = 64 * 1024  # room for the JSON header of the largest request
OPEN_PATHS = (
    "/v2/health/live",
    "/v2/health/ready",
)  # without a token: probes have none, and they tell nothing


class Site:
    """Request handlers for one window stage. `ready` is what /v2/health/ready says.

    With a `token` every path but OPEN_PATHS answers only who sends it.
    """

    def __init__(
        self,
        bundle: Bundle,
        batcher: Batcher,
        backend: str,
        token: str | None = None,
        limits: Limits = Limits(),  # noqa: B008  (it cannot be changed)
    ) -> None:
        self.ready = True
        self.refusals = Refusals()
        self.admission = Admission(limits, self.refusals.refused)
        self.codec = Codec()
        self._token = token
        self._bundle = bundle
        self._stage = bundle.stage("window")
        self._batcher = batcher
        self._backend = backend
        self.body_limit = body_limit(self._stage, bundle.geometry)
        limits.check_holds(self.body_limit + largest_answer(self._stage, bundle.geometry))
        self._under_way: set[asyncio.Task[Any]] = set()

    def application(self) -> web.Application:
        """An aiohttp application; it refuses bodies larger than the largest batch."""
        middlewares = [self.admission.bounded, self._keep_account, self._errors, self._admit]
        app = web.Application(middlewares=middlewares)
        model = f"/v2/models/{wire.MODEL}"
        app.router.add_get("/v2", self.server_metadata)
        app.router.add_get("/v2/", self.server_metadata)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.is_ready)
        app.router.add_get("/metrics", self.metrics)
        for prefix in (model, f"{model}/versions/{wire.VERSION}"):
            app.router.add_get(prefix, self.model_metadata)
            app.router.add_get(f"{prefix}/config", self.model_config)
            app.router.add_get(f"{prefix}/ready", self.is_ready)
            app.router.add_post(f"{prefix}/infer", self.infer)
        return app

    async def drain(self, grace_s: float) -> None:
        """Take no new requests; those under way may finish within `grace_s`, then tiles are given up."""
        self.ready = False
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=grace_s)
        self._batcher.stop()

    @web.middleware
    async def _keep_account(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Remember the request's task, which ends when the answer is sent; hang up after it when stopping."""
        if task := asyncio.current_task():
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        response = await handler(request)
        if not self.ready:
            response.force_close()
        return response

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every failure into {"error": one sentence} with its status, and count refusals by reason.

        Nothing of the request is logged.
        """
        try:
            response = await _answered(request, handler)
        except NotNow as exc:
            self.refusals.refused(exc.reason)
            return _error(503, str(exc), {"Retry-After": str(math.ceil(exc.retry_after_s))})
        if response.status in _REASONS:
            self.refusals.refused(_REASONS[response.status])
        return response

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse who lacks the token before anything else is looked at."""
        if self._token is None or request.path in OPEN_PATHS or _bears(request, self._token):
            return await handler(request)
        raise web.HTTPUnauthorized(text=_REFUSED, headers={"WWW-Authenticate": "Bearer"})

    async def server_metadata(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "name": "pedsam",
                "version": _own_version(),
                "extensions": ["binary_tensor_data", "model_configuration"],
            }
        )

    async def live(self, request: web.Request) -> web.Response:
        return web.Response()

    async def is_ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready and not self._batcher.stopped else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text: sums only, nothing about any one request."""
        done = self._batcher.statistics
        lines = [
            *_metric("counter", "pedsam_site_tiles_total", "Tiles run.", done.tiles),
            *_metric("counter", "pedsam_site_engine_calls_total", "Engine calls.", done.batches),
            *_metric("counter", "pedsam_site_engine_seconds_total", "Time in the engine.", done.engine_s),
            *_metric("counter", "pedsam_site_tiles_refused_total", "Tiles answered 503.", done.refused),
            *_metric("gauge", "pedsam_site_tiles_waiting", "Tiles in the queue.", self._batcher.waiting),
        ]
        return web.Response(text="\n".join([*lines, ""]), headers={"Content-Type": _PROMETHEUS})

    async def model_metadata(self, request: web.Request) -> web.Response:
        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "datatype": wire.OIP_NAME[s.dtype], "shape": [-1, *s.shape[1:]]}
                for s in specs
            ]

        return web.json_response(
            {
                "name": wire.MODEL,
                "versions": [wire.VERSION],
                "platform": self._backend,
                "inputs": tensors(self._stage.inputs),
                "outputs": tensors(self._stage.outputs),
            }
        )

    async def model_config(self, request: web.Request) -> web.Response:
        """Triton's model configuration; its type names are the protocol's with TYPE_ before them."""

        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "data_type": f"TYPE_{wire.OIP_NAME[s.dtype]}", "dims": list(s.shape[1:])}
                for s in specs
            ]

        return web.json_response(
            {
                "name": wire.MODEL,
                "backend": self._backend,
                "max_batch_size": self._bundle.geometry.windows,
                "input": tensors(self._stage.inputs),
                "output": tensors(self._stage.outputs),
                "parameters": {"site_digest": {"string_value": self._bundle.site_digest}},
            }
        )

    async def infer(self, request: web.Request) -> web.Response:
        if not self.ready:
            raise Stopping
        body = await self.admission.body(request, self.body_limit)
        decoded = await self.codec.decode(
            body,
            request.headers.get(wire.HEADER_LENGTH),
            self._stage.inputs,
            self._stage.outputs,
            self._bundle.geometry.windows,
        )
        hold_answer(answer_bytes(decoded, self._stage.outputs))
        outputs = await self._batcher.submit(decoded.inputs, list(decoded.outputs))
        message = await self.codec.encode(outputs, decoded.outputs, decoded.id)
        return web.Response(body=message.body, headers=message.headers)


def http_log() -> logging.Logger:
    """A logger for aiohttp's server that never holds a sender's bytes.

    aiohttp logs what it cannot parse as HTTP, which may be pixels when a length was wrong: its lines are
    kept, with the kind of the exception in place of its text. Failures of handlers do not come this way.
    """
    logger = logging.getLogger("pedsam.site.http")
    logger.addFilter(_without_exception)  # adding it again does nothing
    return logger


def _without_exception(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is not None:
        record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
        record.exc_info = None
    return True


def _own_version() -> str:
    try:
        return version("pedsam")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"


_REFUSED = "the token of this site is missing or wrong; send it as `Authorization: Bearer TOKEN`"


def _bears(request: web.Request, token: str) -> bool:
    """Whether a request carries the token; how long the comparison takes tells nothing about it."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def _metric(kind: str, name: str, text: str, value: float) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]


def body_limit(stage: Stage, geometry: Geometry) -> int:
    """Bytes of the largest request: a full batch as binary tensors, and its header.

    As JSON numbers a tile takes about four times the bytes, so that fewer fit.
    """
    tile = sum(math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in stage.inputs)
    return geometry.windows * tile + HEADER_BYTES


def largest_answer(stage: Stage, geometry: Geometry) -> int:
    """Bytes of the answer to a full batch that asks for every output."""
    tile = sum(math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in stage.outputs)
    return geometry.windows * tile


_REASONS = {401: "token", 408: "read_timeout", 413: "too_large"}
_KEPT = ("Accept-Encoding", "Allow", "WWW-Authenticate")  # headers of errors that say what to do


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except WireError as exc:
        return _error(exc.status, str(exc))
    except NotNow:
        raise
    except web.HTTPException as exc:
        kept = {name: exc.headers[name] for name in _KEPT if name in exc.headers}
        return _error(exc.status, _sentence(request, exc), kept)
    except web.RequestPayloadError:
        response = _error(400, "the body cannot be read: its Content-Encoding or its chunks are wrong")
        response.force_close()  # where the next request would begin is unknown
        return response
    except Exception:
        log.exception("a request failed")
        return _error(500, "the site failed to serve this request; its log says why")


def _sentence(request: web.Request, exc: web.HTTPException) -> str:
    if isinstance(exc, web.HTTPNotFound):
        return f"{request.path!r:.80} is not here; this site has model {wire.MODEL}, version {wire.VERSION}"
    if isinstance(exc, web.HTTPMethodNotAllowed):
        return f"{request.path!r:.80} takes {' or '.join(sorted(exc.allowed_methods))}, not {exc.method:.20}"
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        return f"{exc.text}; send fewer tiles a request, and send them as binary data"
    return exc.text or exc.reason


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps({"error": " ".join(text.split())})
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)
