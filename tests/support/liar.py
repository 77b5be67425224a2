"""A proxy before an honest site that lies, as a process of its own.

    python -m tests.support.liar BUNDLE TARGET KIND AFTER

It hands on what it is asked, and the answers, until the site has answered AFTER tiles that are not the
bundle's probe. From then on every embedding is a lie of this KIND.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web

from stages import wire
from stages.bundle import Bundle
from stages.tensors import Array

_KEPT = ("Content-Type", "If-Match", wire.HEADER_LENGTH)


class Liar:
    """What it answers instead of an embedding [1, w, w, D]."""

    def __init__(self, kind: str) -> None:
        self._lie: Callable[[Array], Array] = getattr(self, f"_{kind}")
        self._rng = np.random.default_rng(1)
        self._before: Array | None = None

    def answer(self, embedding: Array, lying: bool) -> Array:
        lie = self._lie(embedding) if lying else embedding
        self._before = embedding
        return lie

    def _zeros(self, embedding: Array) -> Array:
        return np.zeros_like(embedding)

    def _constant(self, embedding: Array) -> Array:
        return np.ones_like(embedding)

    def _other(self, embedding: Array) -> Array:
        """That of the tile before."""
        return embedding if self._before is None else self._before

    def _noise(self, embedding: Array) -> Array:
        """1 % of it."""
        rms = np.sqrt(np.mean(embedding.astype(np.float64) ** 2))
        noisy: Array = embedding + self._rng.normal(0, 0.01 * rms, embedding.shape)
        return noisy.astype(embedding.dtype)


async def serve(bundle: Bundle, target: str, kind: str, after: int) -> None:
    """Answer until killed."""
    probe, liar, tiles = bundle.probe().inputs["tile"], Liar(kind), 0
    stage = bundle.stage("window")
    outputs = [spec for spec in stage.outputs if spec.name == "embedding"]

    def lies(body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the answer to this request is one."""
        nonlocal tiles
        request = wire.decode_request(body, headers[wire.HEADER_LENGTH], stage.inputs, stage.outputs, 25)
        tiles += not np.array_equal(request.inputs["tile"], probe)
        return tiles > after

    async def hand_on(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
        async with http.request(request.method, target + request.path, data=body, headers=headers) as found:
            answer, status = await found.read(), found.status
            back = {name: found.headers[name] for name in _KEPT if name in found.headers}
        if request.path.endswith("/infer") and status == 200:
            embedding = wire.decode_response(answer, back[wire.HEADER_LENGTH], outputs, 1)["embedding"]
            lie = liar.answer(embedding, lies(body, request.headers))
            message = wire.encode_response({"embedding": lie}, {"embedding": True})
            answer, back = message.body, dict(message.headers)
        return web.Response(body=answer, status=status, headers=back)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", hand_on)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as http:
        await site.start()
        print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


@contextmanager
def lying(bundle: Path, target: str, kind: str, after: int) -> Iterator[str]:
    """The address of a liar before the site at `target`."""
    command = [sys.executable, "-m", "tests.support.liar", str(bundle), target, kind, str(after)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(Bundle.load(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
