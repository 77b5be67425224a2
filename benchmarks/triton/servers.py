"""What is served, and by whom: a site and a Triton, with the engine and with one that does nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.processes import children_of
from benchmarks.site_requests import IdleEngine, ServerProcess, idle_site
from benchmarks.triton.report import PEDSAM, TRITON, Turn
from runtime.sites.client import WIRE_OUTPUTS, choose_wire
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.errors import InputError
from stages.tensors import Array
from stages.tile_inputs import window_inputs
from tests.support.processes import serving
from tests.triton.server import interpreter, model_config, triton

MAX_BATCH = 25
CPU = "onnxruntime-cpu"


@dataclass(frozen=True)
class Work:
    """What is asked of the servers: `tiles` a turn, `idle_tiles` of engines that do nothing."""

    model: str
    bundle: Bundle
    tiles: int
    idle_tiles: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the edge asks for by default."""
        return WIRE_OUTPUTS[choose_wire(self.bundle, None)]

    def inputs(self, count: int) -> dict[str, Array]:
        """Tiles that are noise, of the first `count` windows."""
        g = self.bundle.geometry
        side = g.grid * g.tile_px
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        return window_inputs(self.bundle, noise, g.extents(side, side), list(range(count)))


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    pid: int

    @property
    def pids(self) -> list[int]:
        return [self.pid, *children_of(self.pid)]


@contextlib.contextmanager
def idle_servers(work: Work, python: Path, folder: Path) -> Iterator[list[Server]]:
    """A site and a Triton that answer the same numbers whatever they are asked."""
    folder.mkdir()
    stage, answers = work.bundle.stage("window"), folder / "answers.npz"
    held: dict[str, Any] = {name: array[:1] for name, array in IdleEngine(work.bundle).held.items()}
    np.savez(answers, **held)
    parameters = {"site_digest": work.bundle.site_digest, "answers": str(answers)}
    config = model_config(stage, MAX_BATCH, parameters, batching=True)
    with (
        ServerProcess(partial(idle_site, work.bundle.path)) as site,
        triton(python, folder / "triton", config) as other,
    ):
        yield [Server(PEDSAM, site.url, site.pid), Server(TRITON, other.url, other.pid)]


@contextlib.contextmanager
def real_servers(work: Work, python: Path, folder: Path, threads: int) -> Iterator[list[Server]]:
    """A site and a Triton that run the window graph."""
    folder.mkdir()
    stage = work.bundle.stage("window")
    parameters = {
        "site_digest": work.bundle.site_digest,
        "model": str(work.bundle.verified_file("window").resolve()),
        "threads": str(threads),
    }
    config = model_config(stage, MAX_BATCH, parameters, batching=True)
    options = ("--threads", str(threads), "--backend", CPU)
    with serving(work.bundle.path, *options) as site, triton(python, folder / "triton", config) as other:
        yield [Server(PEDSAM, site.url, site.process.pid), Server(TRITON, other.url, other.pid)]


def called_directly(work: Work, threads: int) -> Generator[Turn, None, None]:
    """Turns of the engine in this process, in batches of the size that it prefers."""
    engine = make_engine(work.bundle, "window", CPU, threads)
    engine.open()
    try:
        feeds = work.inputs(engine.preferred_batch)
        engine.infer(feeds, work.outputs)
        calls = -(-work.tiles // engine.preferred_batch)
        while True:
            began_s, processor_s = time.perf_counter(), time.process_time()
            for _ in range(calls):
                engine.infer(feeds, work.outputs)
            taken_s, busy_s = time.perf_counter() - began_s, time.process_time() - processor_s
            yield Turn(calls * engine.preferred_batch, calls, taken_s, busy_s)
    finally:
        engine.close()


def triton_python() -> Path:
    """The interpreter that has Triton: TRITON_PYTHON, or that of this clone. Raises InputError for none."""
    path = interpreter() or ROOT / ".venv-triton" / "bin" / "python"
    if not path.exists():
        raise InputError(f"no Triton: {path} is not there; make .venv-triton/bin/.installed brings one")
    return path
