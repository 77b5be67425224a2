"""What a request costs a site beside its engine: an engine that does nothing, against a bare aiohttp handler.

    python -m benchmarks.site_requests --out benchmarks/results/site_requests.json

Each server is a process of its own and gets the same requests of one window, eight of them at a time; the
bare handler reads the body and sends as many bytes as the site's answer has. Both are measured in turn. A
server that is busy all the time answers one request per CPU time of a request, so `cpu_us` says the same as
requests a second and is less disturbed by other work. `raw` is a client that does next to nothing itself;
`aiohttp` is the client an edge uses, which takes longer for a request than a bare handler does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import aiohttp
import anyio
import click
import numpy as np
from aiohttp import web

from benchmarks.cpu_time import cpu_times
from benchmarks.machine import describe, where
from benchmarks.sentences import sentences
from runtime.sites.client import WIRE_OUTPUTS, wire_formats
from server.serve import ServeOptions, running_site
from stages import wire
from stages.bundle import Bundle, shipped_bundle
from stages.engines.engine import Engine
from stages.tensors import Array
from stages.tile_inputs import window_inputs

IN_FLIGHT = 8
PATH = f"/v2/models/{wire.MODEL}/infer"
ROUNDS = 7


class IdleEngine(Engine):
    """A window engine that answers the probe's embeddings, `held`, whatever it is given."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.stage("window"))
        self.held = {name: np.repeat(array, 25, axis=0) for name, array in _answers(bundle).items()}

    @property
    def backend(self) -> str:
        return "nothing"

    @property
    def preferred_batch(self) -> int:
        return 8

    def _activate(self) -> None: ...

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        count = len(next(iter(feeds.values())))
        return {name: self.held[name][:count] for name in outputs}

    def _deactivate(self) -> None: ...


def idle_site(path: Path, ready: Connection) -> None:
    """A site that runs such an engine, until it is killed; its url goes to `ready`."""

    async def run() -> None:
        async with running_site(Bundle.load(path), ServeOptions(port=0), IdleEngine) as site:
            ready.send(site.url)
            await asyncio.Event().wait()

    asyncio.run(run())


def _bare(answer: wire.Message, ready: Connection) -> None:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer.body, headers=answer.headers)

    async def run() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post(PATH, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())


class _Client(asyncio.Protocol):
    """A connection that sends a request again whenever the answer to the last one has come."""

    def __init__(self, request: bytes, load: _Load) -> None:
        self._request = request
        self._load = load
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head[:200])
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            self._left, self._head = int(length.split(b":")[1]), b""
        self._left -= len(data)
        if not self._left:
            self._load.answers += 1
            self._transport.write(self._request)


class _Load:
    """Eight requests at a time; `answers` have come."""

    answers = 0

    @contextlib.asynccontextmanager
    async def raw(self, url: str, message: wire.Message) -> AsyncIterator[None]:
        lines = [f"POST {PATH} HTTP/1.1", "Host: site", f"Content-Length: {len(message.body)}"]
        lines += [f"{name}: {value}" for name, value in message.headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + message.body
        host, port = url.removeprefix("http://").split(":")
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: _Client(request, self), host, int(port))
            for _ in range(IN_FLIGHT)
        ]
        try:
            yield
        finally:
            for transport, _ in made:
                transport.abort()

    @contextlib.asynccontextmanager
    async def aiohttp(self, url: str, message: wire.Message) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as tasks:

            async def ask() -> None:
                while True:
                    async with session.post(url + PATH, data=message.body, headers=message.headers) as answer:
                        answer.raise_for_status()
                        await answer.read()
                    self.answers += 1

            for _ in range(IN_FLIGHT):
                tasks.start_soon(ask)
            yield
            tasks.cancel_scope.cancel()


async def _measure(
    server: ServerProcess, client: str, message: wire.Message, seconds: float
) -> dict[str, float]:
    load = _Load()
    async with getattr(load, client)(server.url, message):
        await asyncio.sleep(seconds / 4)
        before, cpu, started = load.answers, cpu_times([server.pid]), time.perf_counter()
        await asyncio.sleep(seconds)
        count, after = load.answers - before, cpu_times([server.pid])
        took = time.perf_counter() - started
    if not count:
        raise click.ClickException("no request was answered")
    return {"requests_per_s": count / took, "cpu_us": 1e6 * after.process_since(cpu, server.pid) / count}


def _message(bundle: Bundle) -> wire.Message:
    """A request for one window as the edge sends it by default."""
    g = bundle.geometry
    side = g.grid * g.tile_px
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    tile = window_inputs(bundle, noise, g.extents(side, side), [0])
    return wire.encode_request(tile, WIRE_OUTPUTS[wire_formats(bundle)[0]])


def _answer(bundle: Bundle) -> wire.Message:
    """What a site answers to it, with numbers that mean nothing."""
    wanted = WIRE_OUTPUTS[wire_formats(bundle)[0]]
    answer = {name: array for name, array in _answers(bundle).items() if name in wanted}
    return wire.encode_response(answer, dict.fromkeys(answer, True))


def _answers(bundle: Bundle) -> dict[str, Array]:
    """Every output of the window stage for one window; the embedding is the probe's."""
    specs = bundle.stage("window").outputs
    zeros = {spec.name: np.zeros((1, *map(int, spec.shape[1:])), spec.dtype) for spec in specs}
    return zeros | {"embedding": bundle.probe().embedding.astype(bundle.embedding_dtype)}


def measured(bundle: Bundle, seconds: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """Both servers in turn, by both clients: medians, and of their ratios in each round."""
    message, answer = _message(bundle), _answer(bundle)
    results: dict[str, Any] = {"request_bytes": len(message.body), "answer_bytes": len(answer.body)}
    with (
        ServerProcess(partial(idle_site, bundle.path)) as site,
        ServerProcess(partial(_bare, answer)) as bare,
    ):
        for client in ("raw", "aiohttp"):
            pairs = [
                [asyncio.run(_measure(server, client, message, seconds)) for server in (site, bare)]
                for _ in range(rounds)
            ]
            results[client] = {
                "site": _medians([of_site for of_site, _ in pairs]),
                "bare": _medians([of_bare for _, of_bare in pairs]),
                "requests_ratio": _ratio(pairs, "requests_per_s"),
                "cpu_ratio": _ratio([pair[::-1] for pair in pairs], "cpu_us"),
            }
    return results


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]}


def _ratio(pairs: Sequence[Sequence[Mapping[str, float]]], key: str) -> float:
    return round(statistics.median(first[key] / second[key] for first, second in pairs), 3)


def markdown(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Site and bare handler side by side, as they were and as they are."""
    columns = [f"{server}, {unit}" for unit in ("CPU us", "requests/s") for server in ("site", "bare")]
    head = ["client", "", *columns[:2], "bare / site", *columns[2:], "site / bare"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for client in ("raw", "aiohttp"):
        for when, result in (("before", before), ("now", now)):
            (found,) = result["bundles"].values()
            lines.append(f"| {client} | {when} | {' | '.join(_cells(found[client]))} |")
    return "\n".join([*lines, "", f"Now: {where(now['machine'])}."])


def _cells(found: Mapping[str, Any]) -> list[str]:
    site, bare = found["site"], found["bare"]
    return [
        *(f"{each['cpu_us']:.0f}" for each in (site, bare)),
        f"{found['cpu_ratio']:.2f}",
        *(f"{each['requests_per_s']:,.0f}" for each in (site, bare)),
        f"{found['requests_ratio']:.2f}",
    ]


class ServerProcess:
    """A server in a process of its own, for as long as the block runs."""

    def __init__(self, run: Callable[[Connection], None]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process
        self._process = process(target=run, args=(theirs,), daemon=True)

    def __enter__(self) -> ServerProcess:
        self._process.start()
        self.url: str = self._ours.recv()
        self.pid = self._process.pid or 0
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


@click.command()
@click.option("--bundle", "bundles", type=click.Path(path_type=Path), multiple=True, help="[default: mini]")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Of each measurement.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundles: tuple[Path, ...], seconds: float, out: Path | None) -> None:
    """Print, and write to OUT, what a request costs with each bundle's bodies."""
    loaded = [Bundle.load(path) for path in bundles or (shipped_bundle(),)]
    results = {
        "machine": describe(),
        "in_flight": IN_FLIGHT,
        "bundles": {bundle.description: measured(bundle, seconds) for bundle in loaded},
    }
    text = json.dumps(results, indent=1) + "\n"
    click.echo(text)
    if out:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with sentences():
        main()
