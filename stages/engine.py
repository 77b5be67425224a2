"""One contract for whatever runs a stage, and the one thread that owns engines.

An engine goes closed -> open -> closed, once. `infer` is the same for every backend: it checks state, names,
dtypes and shapes, then calls the backend's own part.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TypeVar

from stages.bundle import Bundle, Stage
from stages.devices import Device, visible_device
from stages.errors import EngineError
from stages.plans import is_built
from stages.tensors import Array, check_arrays

# "onnxruntime" takes the GPU where there is one; its two pins say which device it is.
BACKENDS = ("auto", "tensorrt", "onnxruntime", "onnxruntime-cuda", "onnxruntime-cpu")

T = TypeVar("T")


class State(enum.Enum):
    NEW = "not opened yet"
    OPEN = "open"
    CLOSED = "closed"


class Engine(ABC):
    """A stage made ready to run. Not thread-safe: open, use and close it on one thread."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._state = State.NEW

    @property
    @abstractmethod
    def backend(self) -> str:
        """What runs it, for people: "onnxruntime 1.31 on CPU"."""

    @property
    @abstractmethod
    def preferred_batch(self) -> int:
        """Tiles a call from which on a larger batch no longer raises throughput."""

    def open(self) -> None:
        """Load the engine. Raises EngineError or BundleError; after a failure nothing is left behind."""
        if self._state is not State.NEW:
            raise EngineError(f"engine {self.stage.name} is {self._state.value}; make a new one")
        self._activate()
        self._state = State.OPEN

    def infer(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once on C-contiguous arrays and return the named outputs (all of them by default).

        Results belong to the caller. Raises EngineError for wrong names, dtypes, shapes or state.
        """
        if self._state is not State.OPEN:
            raise EngineError(f"engine {self.stage.name} is {self._state.value}; open it first")
        check_arrays(self.stage.inputs, feeds)
        known = [spec.name for spec in self.stage.outputs]
        wanted = known if outputs is None else list(outputs)
        if unknown := sorted(set(wanted) - set(known)):
            raise EngineError(f"stage {self.stage.name} has no output {unknown}, only {known}")
        return self._infer(feeds, wanted)

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        opened, self._state = self._state is State.OPEN, State.CLOSED
        if opened:
            self._deactivate()

    @abstractmethod
    def _activate(self) -> None: ...

    @abstractmethod
    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]: ...

    @abstractmethod
    def _deactivate(self) -> None: ...


def make_engine(bundle: Bundle, name: str, backend: str = "auto", threads: int | None = None) -> Engine:
    """An engine for one stage, not opened yet. `threads` bounds the CPU threads of one call.

    "auto" takes TensorRT where the stage was built for this machine's GPU, else onnxruntime on the GPU, and
    the CPU only where no GPU is visible. Raises EngineError for a backend that cannot be had here.
    """
    if backend not in BACKENDS:
        raise EngineError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    device = None if backend == "onnxruntime-cpu" else visible_device()
    chosen = choose_backend(backend, device, device is not None and is_built(bundle, name, device))
    if device is not None and chosen == "tensorrt":
        from stages.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(bundle, name, device)
    from stages.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, name, threads, device)


def choose_backend(backend: str, device: Device | None, built: bool) -> str:
    """What runs a stage for `--backend`: "tensorrt", or "onnxruntime" (on `device`, else on the CPU).

    `built` says whether TensorRT has built the stage for `device`.
    """
    if device is None and backend in ("tensorrt", "onnxruntime-cuda"):
        raise EngineError(
            f"--backend {backend} needs an NVIDIA GPU and none is visible here; see what nvidia-smi says and "
            "that CUDA_VISIBLE_DEVICES hides none; without a GPU take --backend onnxruntime-cpu"
        )
    return "tensorrt" if backend == "tensorrt" or (backend == "auto" and built) else "onnxruntime"


def engine_factories(
    bundle: Bundle, names: Sequence[str], backend: str = "auto", threads: int | None = None
) -> dict[str, Callable[[], Engine]]:
    """`make_engine` for several stages, deferred, as EngineThread takes them."""
    return {name: partial(make_engine, bundle, name, backend, threads) for name in names}


class EngineThread:
    """Opens, runs and closes named engines on one thread of its own.

    Device contexts belong to a thread, and engines of one device gain nothing from running at once.
    """

    def __init__(self, engines: Mapping[str, Callable[[], Engine]]) -> None:
        self._factories = engines
        self._engines: dict[str, Engine] = {}
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engines")

    async def __aenter__(self) -> EngineThread:
        try:
            await self._call(self._open_all)
        except BaseException:
            await self._shut_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._shut_down()

    def __contains__(self, name: str) -> bool:
        return name in self._engines

    def engine(self, name: str) -> Engine:
        """The engine itself, for what it says of itself; run it through `infer` only."""
        return self._engines[name]

    async def infer(
        self, name: str, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Engine.infer on the engine thread. Cancelling drops the result; the call itself still finishes."""
        if name not in self._engines:
            raise EngineError(f"no engine {name!r} is open here, only {sorted(self._engines)}")
        engine = self._engines[name]
        return await self._call(lambda: engine.infer(feeds, outputs))

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def _open_all(self) -> None:
        for name, factory in self._factories.items():
            engine = factory()
            engine.open()
            self._engines[name] = engine

    def _close_all(self) -> None:
        engines, self._engines = self._engines, {}
        with contextlib.ExitStack() as stack:  # one failing close does not skip the rest
            for engine in engines.values():
                stack.callback(engine.close)

    async def _shut_down(self) -> None:
        """Close the engines after the call they are in; cancelling waits too."""
        import anyio  # here, since an exporter runs engines without a loop and does not install it

        closing = asyncio.ensure_future(self._call(self._close_all))
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):  # holds off cancel scopes; the loop holds off Task.cancel
            while not closing.done():
                try:
                    await asyncio.wait([closing])
                except asyncio.CancelledError as exc:
                    cancelled = exc
        self._executor.shutdown(wait=False)
        if cancelled is not None:
            raise cancelled from closing.exception()
        closing.result()
