"""Which backend runs a stage here: TensorRT, or onnxruntime on the GPU or the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stages.bundle import Bundle
from stages.engines.devices import Device, visible_device
from stages.engines.engine import Engine
from stages.engines.onnxruntime_engine import OnnxRuntimeEngine
from stages.engines.plans import is_built
from stages.engines.streaming_engine import StreamingEngine
from stages.engines.tensorrt_engine import TensorRtEngine
from stages.errors import EngineError

# "onnxruntime" takes the GPU where there is one; its two pins say which device it is.
BACKENDS = ("auto", "tensorrt", "onnxruntime", "onnxruntime-cuda", "onnxruntime-cpu")


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
        return TensorRtEngine(bundle, name, device)
    return OnnxRuntimeEngine(bundle, name, threads, device)


def make_streaming_engine(
    bundle: Bundle, backend: str = "auto", threads: int | None = None
) -> StreamingEngine:
    """An engine for the global stage in parts, not opened yet, where onnxruntime runs that stage.

    Raises EngineError where TensorRT does, and as `make_engine`.
    """
    if runs_in_tensorrt(bundle, "global", backend):
        raise EngineError(
            "TensorRT runs the global stage here, and its parts run in onnxruntime alone: leave --encoder "
            "out, or give --backend onnxruntime-cuda too"
        )
    device = None if backend == "onnxruntime-cpu" else visible_device()
    return StreamingEngine(bundle, threads, device)


def runs_in_tensorrt(bundle: Bundle, name: str, backend: str) -> bool:
    """Whether `make_engine` takes TensorRT. Raises EngineError as that does."""
    return isinstance(make_engine(bundle, name, backend), TensorRtEngine)


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
