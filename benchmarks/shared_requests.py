"""Windows of a site in one request, or each in its own: frames a second, latency and the edge's processor.

Three sites as processes, whose engines only take time (ROW_S a window, CALL_S a call), behind a line that
they share. Bytes are those of coded windows (runtime.check.plan); client and server are the real ones.

The line is a relay of our own: so many bits a second each way for all connections together, a fixed delay,
and TCP's slow start (RFC 5681, with the initial window of RFC 6928): a connection has at most its window
under way, which grows by what is acknowledged and is small again after an idle time. Loss is not imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe
from runtime.check.plan import coded_stage
from runtime.sites.client import SiteClient
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import Grant
from runtime.sites.traffic import Traffic, even_parts
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, Probe, shipped_bundle
from stages.engines.engine import Engine
from stages.geometry import GEOMETRIES
from stages.tensors import Array, TensorSpec

MODELS = {"mini": ("dct:10/3", 48), "vit_b": ("dct:15/6", 192)}  # code of the tiles, components
LINES = ((20, 100), (100, 100), (1000, 1000))  # megabits a second up and down
ROUND_TRIPS_MS = (1, 20, 80)
IN_FLIGHT = (1, 3)  # frames under way
SHARED = (1, 5)  # windows in a request, of a site's five
SITES, WINDOWS = 3, 5
ROW_S, CALL_S = 0.0005, 0.001
WARM_UP = 4  # frames that are not counted
SEGMENT = 1448
INITIAL_WINDOW = 10 * SEGMENT
IDLE_S = 0.2  # and two round trips: after that the window is small again


class CodedBundle(Bundle):
    """A bundle whose window stage is another one's record; its probe is ones, and so is its embedding."""

    def probe(self) -> Probe:
        stage = self.stage("window")
        embedding = next(spec for spec in stage.outputs if spec.name == "embedding")
        inputs = {spec.name: _ones(spec, 1) for spec in stage.inputs} | {"index": np.zeros((1, 1), np.int32)}
        return Probe(inputs, _ones(embedding, 1).astype(np.float32), self.probe_tolerance)


def coded_bundle(model: str) -> CodedBundle:
    """The shipped bundle with the tensors of a model and a code."""
    shipped, geometry = Bundle.load(shipped_bundle()), GEOMETRIES[model]
    code, components = MODELS[model]
    stage = coded_stage(shipped.stage("window"), geometry, code, components)
    outputs = [
        TensorSpec(spec.name, spec.dtype, ("n", geometry.window, geometry.window, spec.shape[-1]))
        for spec in stage.outputs
    ]
    values = {field.name: getattr(shipped, field.name) for field in fields(shipped)}
    values["stages"] = {**shipped.stages, "window": replace(stage, outputs=tuple(outputs))}
    return CodedBundle(**values)


def _ones(spec: TensorSpec, rows: int) -> Array:
    return np.ones((rows, *map(int, spec.shape[1:])), spec.dtype)


class FixedEngine(Engine):
    """Takes ROW_S for every window and CALL_S for every call, and answers ones."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.stage("window"))

    @property
    def backend(self) -> str:
        return f"{ROW_S * 1e3:g} ms a window"

    @property
    def preferred_batch(self) -> int:
        return 8

    def _activate(self) -> None:
        pass

    def _deactivate(self) -> None:
        pass

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        rows = len(feeds["index"])
        time.sleep(CALL_S + rows * ROW_S)
        one = {"embedding": 1.0, "embedding_q8": 127, "scale": 1 / 127}
        wanted = [spec for spec in self.stage.outputs if spec.name in outputs]
        return {spec.name: (_ones(spec, rows) * one[spec.name]).astype(spec.dtype) for spec in wanted}


def serve(model: str, told: Connection) -> None:
    """A site, in a process of its own: tells its port."""

    async def run() -> None:
        async with running_site(coded_bundle(model), ServeOptions(port=0), FixedEngine) as site:
            told.send(int(site.url.rpartition(":")[2]))
            await asyncio.Event().wait()

    asyncio.run(run())


class Way:
    """One direction of the line: when what is sent now has passed it."""

    def __init__(self, mbit: float, delay_s: float) -> None:
        self.delay_s = delay_s
        self._s_per_byte = 8e-6 / mbit
        self._free_s = 0.0

    def arrives_s(self, size: int) -> float:
        self._free_s = max(self._free_s, time.perf_counter()) + size * self._s_per_byte
        return self._free_s + self.delay_s


class Sender:
    """What one connection may have under way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._window = INITIAL_WINDOW
        self._sent_s = 0.0
        self._under_way: deque[tuple[float, int]] = deque()  # until when each is not acknowledged, bytes

    async def send(self, size: int) -> float:
        """Wait until so many bytes may leave, and say when they arrive."""
        while self._under_way and self._under_way[0][0] <= time.perf_counter():
            self._window += self._under_way.popleft()[1]
        if not self._under_way and time.perf_counter() - self._sent_s > IDLE_S + 4 * self._way.delay_s:
            self._window = INITIAL_WINDOW
        while self._under_way and sum(each for _, each in self._under_way) + size > self._window:
            known_s, acknowledged = self._under_way.popleft()
            await asyncio.sleep(max(0.0, known_s - time.perf_counter()))
            self._window += acknowledged
        arrives_s = self._way.arrives_s(size)
        self._under_way.append((arrives_s + self._way.delay_s, size))
        self._sent_s = time.perf_counter()
        return arrives_s


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    """One direction of one connection."""
    sender, arriving = Sender(way), asyncio.Queue[tuple[float, bytes]]()

    async def deliver() -> None:
        with contextlib.suppress(ConnectionError):
            while (due := await arriving.get())[1]:
                await asyncio.sleep(max(0.0, due[0] - time.perf_counter()))
                writer.write(due[1])
        writer.close()

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4 * SEGMENT):
            arriving.put_nowait((await sender.send(len(data)), data))
    arriving.put_nowait((0.0, b""))
    await delivering


def relay(ports: Sequence[int], line: tuple[float, float], round_trip_s: float, told: Connection) -> None:
    """The line, in a process of its own: tells the ports of its near end."""

    async def run() -> None:
        up, down = (Way(mbit, round_trip_s / 2) for mbit in line)

        async def serve_one(port: int, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
            far, request = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(carry(near, request, up), carry(far, answer, down))

        servers = [await asyncio.start_server(partial(serve_one, port), "127.0.0.1", 0) for port in ports]
        told.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    asyncio.run(run())


@dataclass(frozen=True)
class Measured:
    """Rate, latencies and the edge's processor of frames after the first WARM_UP; bytes of all, a frame."""

    fps: float
    latency_p50_ms: float
    latency_p95_ms: float
    processor_ms: float
    bytes_up: float
    bytes_down: float


async def frames_over(
    bundle: Bundle, ports: Sequence[int], shared: int, in_flight: int, frames: int
) -> Measured:
    """Frames of SITES x WINDOWS windows, `in_flight` under way, `shared` windows a request."""
    async with AsyncExitStack() as stack:
        clients = []
        for number, port in enumerate(ports):
            site = SiteConfig(f"s{number}", f"o{number}", f"http://127.0.0.1:{port}")
            clients.append(await stack.enter_async_context(SiteClient(site, bundle, "int8")))
            await clients[-1].connect(bundle.probe())
        parts = even_parts(range(WINDOWS), shared)
        calls = [_call(client, part, bundle) for client in clients for part in parts]
        before, processor_s, first = _traffic(clients), 0.0, 0
        places = asyncio.Semaphore(in_flight)
        ended_s: list[float] = []
        took_s: list[float] = []

        async def frame() -> None:
            started = time.perf_counter()
            await asyncio.gather(*(call() for call in calls))
            ended_s.append(time.perf_counter())
            took_s.append(ended_s[-1] - started)
            places.release()

        tasks = []
        for number in range(frames + WARM_UP):
            await places.acquire()
            if number == WARM_UP:
                processor_s, first = time.process_time(), len(ended_s)
            tasks.append(asyncio.create_task(frame()))
        await asyncio.gather(*tasks)
        processor_s = time.process_time() - processor_s
        late_s, counted = sorted(took_s[first:]), len(ended_s) - first
        sent = _traffic(clients) - before
    return Measured(
        (counted - 1) / (ended_s[-1] - ended_s[first]),
        statistics.median(late_s) * 1e3,
        late_s[int(0.95 * (counted - 1))] * 1e3,
        processor_s / counted * 1e3,
        sent.up / len(ended_s),
        sent.down / len(ended_s),
    )


def _traffic(clients: Sequence[SiteClient]) -> Traffic:
    return sum((client.traffic for client in clients), Traffic())


def _call(client: SiteClient, windows: Sequence[int], bundle: Bundle) -> Any:
    probe = bundle.probe()
    inputs = {name: np.repeat(array, len(windows), axis=0) for name, array in probe.inputs.items()}
    inputs["index"] = np.array([[window] for window in windows], np.int32)
    grants = [Grant(client.name, client.config.operator, window) for window in windows]
    return partial(client.infer, grants, inputs)


def measure(model: str, rounds: int, frames: int) -> list[dict[str, Any]]:
    """A row for each line, round trip and number of frames under way; in turn, the medians of the rounds."""
    context, bundle, rows = multiprocessing.get_context("spawn"), coded_bundle(model), []
    with contextlib.ExitStack() as stack:
        ports = [_started(stack, context, serve, model) for _ in range(SITES)]
        for line in LINES:
            for round_trip_ms in ROUND_TRIPS_MS:
                with contextlib.ExitStack() as relaying:
                    near = _started(relaying, context, relay, ports, line, round_trip_ms / 1e3)
                    for in_flight in IN_FLIGHT:
                        found: dict[int, list[Measured]] = {shared: [] for shared in SHARED}
                        for _ in range(rounds):
                            for shared, measured in found.items():
                                run = frames_over(bundle, near, shared, in_flight, frames)
                                measured.append(asyncio.run(run))
                        row = {"mbit": line, "round_trip_ms": round_trip_ms, "in_flight": in_flight}
                        row |= {f"shared_{n}": vars(_median(each)) for n, each in found.items()}
                        click.echo(json.dumps(row))
                        rows.append(row)
    return rows


def _median(measured: Sequence[Measured]) -> Measured:
    names = [field.name for field in fields(Measured)]
    return Measured(
        **{name: round(statistics.median(getattr(each, name) for each in measured), 2) for name in names}
    )


def _started(stack: contextlib.ExitStack, context: Any, target: Any, *arguments: Any) -> Any:
    """What a process says first; it ends with the block."""
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.terminate)
    return here.recv()


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--frames", type=click.IntRange(5), default=40, show_default=True)
def main(out: Path, rounds: int, frames: int) -> None:
    """Write what was measured to a JSON file."""
    found: dict[str, Any] = {"machine": describe(), "rounds": rounds, "frames": frames, "models": {}}
    for model, (code, components) in MODELS.items():
        rows = measure(model, rounds, frames)
        found["load_average"] = os.getloadavg()  # of this machine: where it is busy, the processor decides
        found["models"][model] = {"tiles": code, "components": components, "wire": "int8", "rows": rows}
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
