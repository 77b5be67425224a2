"""A tiny model, and an engine for it that needs no weights: what tests of servers and threads run on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from server.serve import RunningSite, ServeOptions, running_site
from stages.bundle import Bundle, Stage
from stages.engines.engine import Engine
from stages.geometry import Geometry
from stages.tensors import Array, TensorSpec

TINY = Geometry("tiny", 20, 2, 2, 3, 1, 2, (1,))  # 5 x 5 windows of 4 x 4 pixels
INPUTS = (
    TensorSpec("tile", "uint8", ("n", 4, 4, 3)),
    TensorSpec("index", "int32", ("n", 1), (0, 24)),
    TensorSpec("extent", "int32", ("n", 2), (0, 4)),
)
OUTPUTS = (
    TensorSpec("embedding", "float16", ("n", 2, 2, 3)),
    TensorSpec("embedding_q8", "int8", ("n", 2, 2, 3)),
    TensorSpec("scale", "float16", ("n", 2, 2, 1)),
)
STAGE = Stage(
    "window", "window/model.onnx", {"window/model.onnx": "0" * 64}, INPUTS, OUTPUTS, precision="fp32"
)


def tiny_bundle(path: Path = Path("nowhere"), stage: Stage = STAGE) -> Bundle:
    """The record of a bundle; nothing lies at `path` unless a test puts it there."""
    return Bundle(
        path=path,
        geometry=TINY,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        weights="untrained",
        trained_on="nothing",
        embedding_dtype="float16",
        head_blocks=0,
        stages={"window": stage},
        edge_files={},
        probe_tolerance={"float16": 0.02},
        components=TINY.dim,
        format=1,
    )


def tiles(*indices: int) -> dict[str, Array]:
    """Inputs of the window stage for these windows; each tile's pixels differ from the others'."""
    pixels = [np.random.default_rng(index).integers(0, 256, TINY.tile_shape, np.uint8) for index in indices]
    return {
        "tile": np.stack(pixels),
        "index": np.array(indices, np.int32)[:, None],
        "extent": np.full((len(indices), 2), 4, np.int32),
    }


def answers(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the fake engine answers: every output, each row from its own tile and index alone."""
    corner = inputs["tile"][:, :2, :2, :].astype(np.float16)
    index = inputs["index"].astype(np.float16)[:, :, None, None]
    return {
        "embedding": corner + index,
        "embedding_q8": (corner / 2).astype(np.int8),
        "scale": np.broadcast_to(index + 1, (len(index), 2, 2, 1)).astype(np.float16),
    }


class Gate:
    """Holds an engine inside its calls until opened. Make it on the event loop; it is opened only once."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def pass_through(self) -> None:
        """On the engine's thread: tell the loop, then wait."""
        self._loop.call_soon_threadsafe(self.entered.set)
        if not self._opened.wait(timeout=60):
            raise TimeoutError("the test never opened the gate")


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nothing announces; fails after 10 s."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


@dataclass(frozen=True)
class Call:
    """One call on the engine: its name, its thread, the windows and the outputs asked for."""

    what: str
    thread: int
    windows: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()


class FakeEngine(Engine):
    """Answers at once, or holds at `gate`, or raises what `failures` has for "open", "infer" or "close"."""

    def __init__(
        self,
        gate: Gate | None = None,
        failures: Mapping[str, BaseException] | None = None,
        calls: list[Call] | None = None,
    ) -> None:
        super().__init__(STAGE)
        self.gate = gate
        self.failures = dict(failures or {})
        self.calls = [] if calls is None else calls

    @property
    def backend(self) -> str:
        return "fake 1.0 on nothing"

    @property
    def preferred_batch(self) -> int:
        return 8

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """Windows of each engine call so far."""
        return [call.windows for call in self.calls if call.what == "infer"]

    def _note(self, what: str, windows: Sequence[int] = (), outputs: Sequence[str] = ()) -> None:
        self.calls.append(Call(what, threading.get_ident(), tuple(windows), tuple(outputs)))
        if what in self.failures:
            raise self.failures[what]

    def _activate(self) -> None:
        self._note("open")

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        if not feeds["extent"].any():  # the blank window of the check at the start, which no edge sends
            return {name: answers(feeds)[name] for name in outputs}
        if self.gate is not None:
            self.gate.pass_through()
        self._note("infer", feeds["index"].ravel().tolist(), outputs)
        results = answers(feeds)
        return {name: results[name] for name in outputs}

    def _deactivate(self) -> None:
        self._note("close")


def fake_site(engine: FakeEngine | None = None, **options: Any) -> AbstractAsyncContextManager[RunningSite]:
    """A site on a free port around a fake engine; `options` are those of ServeOptions."""
    chosen = ServeOptions(**{"port": 0, **options})
    return running_site(tiny_bundle(), chosen, lambda bundle: engine or FakeEngine())
