"""The HTTP face of a site: Open Inference Protocol v2 routes over one Batcher."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from server.batcher import Batcher, QueueFull
from stages import wire
from stages.bundle import Bundle, Stage
from stages.errors import EngineError, WireError
from stages.geometry import Geometry

log = logging.getLogger("pedsam.site")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CONFIG_TYPE = {
    "UINT8": "TYPE_UINT8",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "FP16": "TYPE_FP16",
    "FP32": "TYPE_FP32",
}


class Site:
    """Request handlers for one window stage. `ready` is what /v2/health/ready says."""

    def __init__(self, bundle: Bundle, batcher: Batcher, backend: str) -> None:
        self.ready = True
        self._bundle = bundle
        self._stage = bundle.stage("window")
        self._batcher = batcher
        self._backend = backend

    def application(self) -> web.Application:
        """An aiohttp application; bodies over the size of the largest batch are refused unread."""
        app = web.Application(
            client_max_size=body_limit(self._stage, self._bundle.geometry), middlewares=[_errors]
        )
        model = f"/v2/models/{wire.MODEL}"
        app.router.add_get("/v2", self.server_metadata)
        app.router.add_get("/v2/", self.server_metadata)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.is_ready)
        for prefix in (model, f"{model}/versions/{wire.VERSION}"):
            app.router.add_get(prefix, self.model_metadata)
            app.router.add_get(f"{prefix}/config", self.model_config)
            app.router.add_get(f"{prefix}/ready", self.is_ready)
            app.router.add_post(f"{prefix}/infer", self.infer)
        app.router.add_route("*", "/v2/models/{model}{rest:.*}", self.unknown_model)
        return app

    async def server_metadata(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "name": "pedsam",
                "version": "0.1.0",
                "extensions": ["binary_tensor_data", "model_configuration"],
            }
        )

    async def live(self, request: web.Request) -> web.Response:
        return web.Response()

    async def is_ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def model_metadata(self, request: web.Request) -> web.Response:
        def tensors(specs: Any) -> list[dict[str, Any]]:
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
        def tensors(specs: Any) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "data_type": _CONFIG_TYPE[wire.OIP_NAME[s.dtype]], "dims": list(s.shape[1:])}
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
        body = await request.read()
        decoded = wire.decode_request(
            body,
            request.headers.get(wire.HEADER_LENGTH),
            self._stage.inputs,
            self._stage.outputs,
            self._bundle.geometry.windows,
        )
        outputs = await self._batcher.submit(decoded.inputs, list(decoded.outputs))
        message = wire.encode_response(outputs, decoded.outputs, decoded.id)
        return web.Response(body=message.body, headers=message.headers)

    async def unknown_model(self, request: web.Request) -> web.Response:
        known = f"{wire.MODEL} version {wire.VERSION}"
        raise WireError(f"no such model, version or method here; this site serves {known}", status=404)


def body_limit(stage: Stage, geometry: Geometry) -> int:
    """Bytes of the largest request: a full batch as binary tensors, and its header."""
    import numpy as np

    tile = sum(math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in stage.inputs)
    return geometry.windows * tile + wire.MAX_HEADER_BYTES


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into {"error": one sentence} with its status; nothing of the request is logged."""
    try:
        return await handler(request)
    except WireError as exc:
        return _error(exc.status, str(exc))
    except QueueFull as exc:
        return _error(503, str(exc), {"Retry-After": str(math.ceil(exc.retry_after_s))})
    except web.HTTPException as exc:
        return _error(
            exc.status, exc.text or exc.reason, {k: v for k, v in exc.headers.items() if k == "Allow"}
        )
    except EngineError:
        log.exception("the engine failed")
        return _error(500, "the engine failed; the site's log says why")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    body = json.dumps({"error": " ".join(text.split())})
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)
