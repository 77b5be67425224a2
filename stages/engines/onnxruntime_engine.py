"""Run a stage with onnxruntime, on the CPU or with its CUDA provider."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.bundle import Bundle
from stages.engines.devices import Device
from stages.engines.engine import Engine
from stages.engines.out_of_memory import says_out_of_memory
from stages.errors import EngineError
from stages.machine import default_threads, memory_ran_out, own_ceilings
from stages.tensors import Array

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# TF32 would round what an fp32 stage multiplies to ten bits. Memory is taken as asked for, not doubled: an
# edge holds several stages.
CUDA_OPTIONS = {
    "use_tf32": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
}
# It joins a sum and a LayerNorm in one kernel, slower than both: a tenth of the time of the decoder.
CPU_WITHOUT = ["SkipLayerNormFusion"]


class OnnxRuntimeEngine(Engine):
    """On the CPU, or on `device`. `threads` bounds the CPU threads of one call; the default is one a core
    that this process may use."""

    def __init__(
        self, bundle: Bundle, name: str, threads: int | None = None, device: Device | None = None
    ) -> None:
        super().__init__(bundle.stage(name))
        self._bundle = bundle
        self._threads = threads
        self._device = device
        self._session: Any = None

    @property
    def backend(self) -> str:
        return f"onnxruntime {library().__version__} on {self._device or 'CPU'}"

    @property
    def preferred_batch(self) -> int:
        # CPU: a fifth less time a tile than single tiles; larger batches only delay the first results.
        return 8 if self._device else 4

    @property
    def largest_batch(self) -> int:
        return 8

    def _activate(self) -> None:
        if self._device is None and self.stage.precision == "bf16":
            raise EngineError(
                f"stage {self.stage.name} computes in bf16, which onnxruntime cannot on a CPU: run it on an "
                f"NVIDIA GPU (pedsam build), or export it with --precision {self.stage.name}=fp16 or =fp32"
            )
        path = self._bundle.verified_file(self.stage.name)
        self._session = open_session(path, self._threads, self._device)

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        try:
            results = self._session.run(list(outputs), dict(feeds))
        except Exception as exc:
            raise EngineError(problem(f"onnxruntime failed on stage {self.stage.name}", exc)) from exc
        return dict(zip(outputs, results, strict=True))

    def _deactivate(self) -> None:
        self._session = None


def open_session(path: Path, threads: int | None = None, device: Device | None = None) -> Any:
    """An onnxruntime.InferenceSession of a graph, on the CPU or on `device`. Raises EngineError."""
    onnxruntime = library()
    if device:
        _require_cuda(onnxruntime, device)
    options = onnxruntime.SessionOptions()
    if chosen := threads or default_threads():
        options.intra_op_num_threads = chosen
    # Idle threads would spin on the cores that other stages and sites of this machine need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Planned from the first call on, memory is taken a second time in one piece: 0.42 GB more for vit_b's
    # global stage, and no call is faster on a CPU.
    options.enable_mem_pattern = device is not None
    providers = [(CUDA, CUDA_OPTIONS), CPU] if device else [CPU]
    disabled = [] if device else CPU_WITHOUT
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=providers, disabled_optimizers=disabled
        )
    except Exception as exc:  # the library's errors share no base class
        raise EngineError(problem(f"onnxruntime cannot load {path}", exc)) from exc
    if device and CUDA not in session.get_providers():  # it only prints that it took the CPU
        raise EngineError(
            f"onnxruntime cannot use {device}: "
            f"{missing_library(Path(onnxruntime.__file__).parent)}; pip install "
            "'onnxruntime-gpu[cuda,cudnn]' brings what it needs, --backend onnxruntime-cpu does without"
        )
    return session


def problem(what: str, exc: Exception) -> str:
    """Its own words, but where memory ran out: of that they say where in its source."""
    if isinstance(exc, MemoryError) or says_out_of_memory(str(exc)):
        return f"{what}: {memory_ran_out(own_ceilings())}"
    return f"{what}: {exc}"


def library() -> Any:
    """The module onnxruntime, its telemetry turned off, which is on by default, on Linux too."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def _require_cuda(onnxruntime: Any, device: Device) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        raise EngineError(
            f"{device} is visible, but the onnxruntime installed here has no CUDA provider: pip "
            "uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'; or run pedsam build, for "
            "TensorRT; or take the CPU with --backend onnxruntime-cpu"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds the CUDA libraries that pip installed
        onnxruntime.preload_dlls()


def missing_library(package: Path) -> str:
    """Why the CUDA provider in onnxruntime's `package` does not load, in the loader's words."""
    provider = package / "capi/libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(provider))
    except OSError as exc:  # "libcublasLt.so.12: cannot open shared object file: ..."
        return f"{provider.name} does not load ({exc})"
    return "its CUDA provider does not start; its own messages above say why"
