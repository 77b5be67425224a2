"""Sites and edges for tests: configurations, grants, and a site that misbehaves as it is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from runtime.frames.canvas import Canvas, make_canvas
from runtime.sites.client import Timeouts
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.sendable import SendableTile
from stages import wire
from stages.bundle import Bundle
from stages.engines.backends import engine_factories
from stages.engines.thread import EngineThread
from stages.geometry import Geometry
from stages.tensors import Array
from tests.support.pictures import photo

EDGE = ("window", "global", "decoder")
WITH_HEAD = ("head", *EDGE)
QUICK = Timeouts(connect_s=2.0, probe_s=10.0, tile_s=0.3, tile_factor=0.0)
PATIENT = Timeouts(
    connect_s=30.0, answer_s=60.0, probe_s=60.0, tile_s=60.0
)  # a busy machine makes nobody late
SOON = (0.02,)  # seconds between attempts to reconnect

Behaviour = Callable[["Impostor", web.Request], Awaitable[web.StreamResponse]]


def config(name: str, url: str = "http://127.0.0.1:1", operator: str = "", **more: bool | int) -> SiteConfig:
    """A site that its own operator runs, if nothing else is said."""
    return SiteConfig(name, operator or f"operator-{name}", url, **more)  # type: ignore[arg-type]


def ledger_for(
    sites: Iterable[SiteConfig],
    cap: int,
    path: Path | None = None,
    kind: type[ExposureLedger] = ExposureLedger,
) -> ExposureLedger:
    operators = {site.name: site.operator for site in sites}
    return kind.open(path, operators, dict.fromkeys(operators.values(), cap))


def grant_for(site: SiteConfig, window: int) -> Grant:
    grant = ledger_for([site], 25).grant(site.name, window)
    assert grant is not None
    return grant


def granted(site: str, operator: str, window: int) -> Grant:
    """What a ledger gives out where this is allowed."""
    return grant_for(config(site, operator=operator), window)


def sendable(inputs: Mapping[str, Array]) -> list[SendableTile]:
    """The tiles of a frame that keeps none, from inputs of the window stage for all of them."""
    return [
        SendableTile({name: array[row : row + 1] for name, array in inputs.items()}, frozenset())
        for row in range(len(inputs["index"]))
    ]


def canvas_of(shape: str, geometry: Geometry) -> Canvas:
    """The photograph in one of tests.support.pictures.SHAPES, on a canvas."""
    return make_canvas(photo(shape), geometry)


def edge_engines(bundle: Bundle, names: Sequence[str] = EDGE) -> EngineThread:
    return EngineThread(engine_factories(bundle, names, "auto", threads=1))


def window_stamp(bundle: Bundle, window: int) -> Array:
    """What an Impostor answers for a window: [w, w, D] filled with its number."""
    return np.full(bundle.embedding_shape, window, bundle.embedding_dtype)


def write_photo(path: Path, shape: str = "16:9") -> Path:
    Image.fromarray(photo(shape)).save(path)
    return path


def sites_file(path: Path, *entries: tuple[str, str], more: str = "") -> Path:
    """A sites.toml of (name, url) pairs, each of its own operator."""
    tables = (
        f'[[site]]\nname = "{name}"\noperator = "operator-{name}"\nurl = "{url}"\n{more}\n'
        for name, url in entries
    )
    path.write_text("\n".join(tables))
    return path


class Impostor:
    """A site without an engine: it knows the digest and the probe's answer, and stamps other tiles.

    `script` holds what it does instead with the next tiles, first one first; `always` with every request.
    `tiles` are the windows it was sent, `requests` the same by request, and `seen` tells when there are more.
    It says that it takes `max_batch` in one, if that is given.
    """

    def __init__(
        self,
        bundle: Bundle,
        *script: Behaviour,
        always: Behaviour | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.digest = bundle.site_digest
        self.code: str | None = None
        self.script = deque(script)
        self.always = always
        self.tiles: list[int] = []
        self.requests: list[list[int]] = []
        self.max_batch = max_batch
        self.seen = asyncio.Event()
        self.released = asyncio.Event()  # what stalls goes on when this is set
        self._probe = bundle.probe()

    @asynccontextmanager
    async def running(self, port: int | None = None) -> AsyncIterator[str]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/models/window/config", self._config)
        app.router.add_post("/v2/models/window/infer", self._infer)
        async with TestServer(app, port=port) as server:
            try:
                yield str(server.make_url("")).rstrip("/")
            finally:
                self.released.set()

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await self.always(self, request) if self.always is not None else web.Response()

    async def _config(self, request: web.Request) -> web.StreamResponse:
        if self.always is not None:
            return await self.always(self, request)
        batch = {} if self.max_batch is None else {"max_batch_size": self.max_batch}
        told = {"site_digest": self.digest, **({"code": self.code} if self.code else {})}
        parameters = {name: {"string_value": value} for name, value in told.items()}
        return web.json_response({"parameters": parameters, **batch})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        inputs, _ = await self.read(request)
        is_probe = self._is_probe(inputs)
        if not is_probe:
            self.requests.append(inputs["index"][:, 0].tolist())
            self.tiles += self.requests[-1]
            self.seen.set()
        if self.always is not None:
            return await self.always(self, request)
        if self.script and not is_probe:
            return await self.script.popleft()(self, request)
        return await self.answer(request)

    def _is_probe(self, inputs: dict[str, Array]) -> bool:
        """Whether every tile is the probe's."""
        (first, expected), *_ = self._probe.inputs.items()
        return bool((inputs[first] == expected).all())

    async def read(self, request: web.Request) -> tuple[dict[str, Array], list[str]]:
        """Inputs and the names of the outputs asked for."""
        stage = self.bundle.stage("window")
        length = request.headers[wire.HEADER_LENGTH]
        decoded = wire.decode_request(await request.read(), length, stage.inputs, stage.outputs, 25)
        return dict(decoded.inputs), list(decoded.outputs)

    async def answer(self, request: web.Request, embedding: Array | None = None) -> web.Response:
        """`embedding`, or the right answer."""
        inputs, _ = await self.read(request)
        if embedding is None:
            embedding = await self.right_answer(inputs)
        message = wire.encode_response({"embedding": embedding}, {"embedding": True})
        return web.Response(body=message.body, headers=message.headers)

    async def right_answer(self, inputs: dict[str, Array]) -> Array:
        if self._is_probe(inputs):
            copies = len(inputs["index"])
            return np.repeat(self._probe.embedding, copies, axis=0).astype(self.bundle.embedding_dtype)
        return np.stack([window_stamp(self.bundle, window) for window in inputs["index"][:, 0].tolist()])


async def stall(site: Impostor, request: web.Request) -> web.StreamResponse:
    await site.released.wait()
    return web.Response(status=503)


def status(code: int, text: str = "no", **headers: str) -> Behaviour:
    async def behave(site: Impostor, request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=code, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return behave


def body(data: bytes, **headers: str) -> Behaviour:
    async def behave(site: Impostor, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=data, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return behave


def answers_with(embedding: Callable[[Bundle], Array]) -> Behaviour:
    async def behave(site: Impostor, request: web.Request) -> web.StreamResponse:
        return await site.answer(request, embedding(site.bundle))

    return behave


async def hang_up(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Begin an answer and close the connection in the middle of it."""
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    await response.write(b"x" * 1000)
    assert request.transport is not None
    request.transport.close()
    return response


async def flood(site: Impostor, request: web.Request) -> web.StreamResponse:
    """Send without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 16))


class Loading(Impostor):
    """Knows its digest and serves no tile yet."""

    async def answer(self, request: web.Request, embedding: Array | None = None) -> web.Response:
        return web.Response(status=503, text="loading", headers={"Retry-After": "0"})
