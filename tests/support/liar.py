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

from runtime.sites.client import WIRE_OUTPUTS, choose_wire
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
        """3 % of it: two checks find so much after int8, one alone does not."""
        rms = np.sqrt(np.mean(embedding.astype(np.float64) ** 2))
        noisy: Array = embedding + self._rng.normal(0, 0.03 * rms, embedding.shape)
        return noisy


def _embedding(arrays: Mapping[str, Array]) -> Array:
    """fp32 [n, w, w, r], of either wire format."""
    if "embedding" in arrays:
        return arrays["embedding"].astype(np.float32)
    restored: Array = arrays["embedding_q8"] * arrays["scale"].astype(np.float32)
    return restored


def _sent_as(arrays: Mapping[str, Array], embedding: Array) -> dict[str, Array]:
    """An embedding in the wire format that `arrays` are in."""
    if "embedding" in arrays:
        return {"embedding": embedding.astype(arrays["embedding"].dtype)}
    scale = np.maximum(np.abs(embedding).max(axis=-1, keepdims=True) / 127, 2.0**-14).astype(np.float16)
    return {"embedding_q8": np.rint(embedding / scale).clip(-128, 127).astype(np.int8), "scale": scale}


async def serve(bundle: Bundle, target: str, kind: str, after: int) -> None:
    """Answer until killed, in the bundle's own wire format."""
    probe, liar, tiles = bundle.probe().inputs["tile"], Liar(kind), 0
    stage, names = bundle.stage("window"), WIRE_OUTPUTS[choose_wire(bundle, None)]
    outputs = [spec for spec in stage.outputs if spec.name in names]

    def lie(asked: Array, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What is answered to these tiles instead of `arrays`."""
        nonlocal tiles
        embedding = _embedding(arrays)
        for row in range(len(asked)):
            tiles += not np.array_equal(asked, probe)
            embedding[row : row + 1] = liar.answer(embedding[row : row + 1].copy(), tiles > after)
        return _sent_as(arrays, embedding) if tiles > after else dict(arrays)

    async def hand_on(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
        async with http.request(request.method, target + request.path, data=body, headers=headers) as found:
            answer, status = await found.read(), found.status
            back = {name: found.headers[name] for name in _KEPT if name in found.headers}
        if request.path.endswith("/infer") and status == 200:
            head_length = request.headers[wire.HEADER_LENGTH]
            asked = wire.decode_request(body, head_length, stage.inputs, stage.outputs, 25).inputs["tile"]
            arrays = wire.decode_response(answer, back[wire.HEADER_LENGTH], outputs, len(asked))
            lies = lie(asked, arrays)
            message = wire.encode_response(lies, dict.fromkeys(lies, True))
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
