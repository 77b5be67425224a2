"""One stage through TensorRT's parser and builder. No torch, and TensorRT itself is a parameter.

`trt` is the module tensorrt (10.3 to 11) or tensorrt_rtx; the first builds for the GPU it runs on, the second
for any compute capability it knows and without a GPU.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.engines.out_of_memory import says_out_of_memory
from stages.engines.plans import Shapes
from stages.engines.tensorrt_engine import error_logger
from stages.errors import EngineError

Progress = Callable[[float], bool]
RTX = "tensorrt_rtx"
# The builder logs an engine's memory; the engine itself can be asked only on a device that runs it.
_MEMORY = re.compile(r"Total (Weights|Activation) Memory: (\d+)")


class MemoryRanOut(EngineError):
    """One try at building ran out of memory; another workspace or a lower optimisation level may fit."""


@dataclass(frozen=True)
class BuildJob:
    """One stage to build: its ONNX, the shapes of its inputs with dynamic axes, and for what.

    `sm` is the compute capability for TensorRT for RTX ("sm_86"). `workspace_bytes` None leaves the limit to
    the builder: all of the device. `optimization_level` is 0 (fastest to build, least memory) to 5; None
    leaves TensorRT's default, 3. `timing_cache` is what an earlier build on this device returned.
    """

    stage: str
    onnx: Path
    shapes: Shapes
    sm: str
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: bytes = b""


@dataclass(frozen=True)
class Built:
    """A serialised engine of `layers` layers. Memory in bytes, None where the builder did not say."""

    plan: Any
    layers: int
    seconds: float
    weights_bytes: int | None
    activation_bytes: int | None
    timing_cache: bytes


def build(trt: Any, job: BuildJob, progress: Progress) -> Built:
    """Parse and build. `progress` gets the fraction done, on threads of the builder; False stops the build.

    Raises EngineError naming the node that cannot be built, and MemoryRanOut.
    """
    started = time.perf_counter()
    memory: dict[str, int] = {}

    def note(line: str) -> None:
        if found := _MEMORY.search(line):
            memory[found[1]] = int(found[2])

    logger = error_logger(trt, note)
    builder = _builder(trt, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)  # the network refers to weights it holds
    _parse(parser, job)
    config = _configure(trt, builder, job)
    monitor = _monitor(trt, progress)  # has to live as long as the build
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(trt, job, logger.reason())
    progress(1.0)  # the builder does not report its last steps
    return Built(
        plan=plan,
        layers=network.num_layers,
        seconds=time.perf_counter() - started,
        weights_bytes=memory.get("Weights"),
        activation_bytes=memory.get("Activation"),
        timing_cache=_timing_cache(trt, config),
    )


def _builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as exc:  # raised by the bindings when the library returns a null pointer
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not start here: {logger.reason()}; it needs a GPU and "
            "its driver (see nvidia-smi), unless --parse-only is given"
        ) from exc


def _parse(parser: Any, job: BuildJob) -> None:
    if parser.parse_from_file(str(job.onnx)):
        return
    errors = [_sentence(parser.get_error(i)) for i in range(parser.num_errors)]
    raise EngineError(
        f"stage {job.stage} does not parse: " + "; ".join(errors[:3]) + (" ..." if errors[3:] else "")
    )


def _sentence(error: Any) -> str:
    """A parser's error as a clause that names the node, where there is one."""
    code = str(error.code()).rpartition(".")[2]
    if error.node() < 0:
        return f"{error.desc().strip()} ({code})"
    where = f"node {error.node()}, {error.node_name() or 'without name'}, of type {error.node_operator()}"
    if code.startswith("UNSUPPORTED"):
        return f"{where}, is not supported ({code} in {error.func()})"
    return f"{where}: {error.desc().strip()} ({code} in {error.func()})"


def _configure(trt: Any, builder: Any, job: BuildJob) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 would round the factors of an fp32 stage to ten bits
    if job.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    if job.optimization_level is not None:
        config.builder_optimization_level = job.optimization_level
    if job.shapes:
        profile = builder.create_optimization_profile()
        for name, shapes in job.shapes.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    if trt.__name__ == RTX:
        _set_target(trt, config, job.sm)
    else:
        # A cache of another TensorRT or driver is not taken; then this build starts one.
        cache = config.create_timing_cache(job.timing_cache) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return config


def _set_target(trt: Any, config: Any, sm: str) -> None:
    targets = {name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)}
    name = sm.upper().replace("_", "")
    if name not in targets:
        known = ", ".join(sorted((target.replace("SM", "sm_") for target in targets), key=_number))
        raise EngineError(f"TensorRT for RTX {trt.__version__} builds for {known}, not for {sm}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _number(sm: str) -> int:
    return int(sm.rpartition("_")[2])


def _timing_cache(trt: Any, config: Any) -> bytes:
    """The serialised timing cache; TensorRT for RTX has none."""
    cache = None if trt.__name__ == RTX else config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def _failure(trt: Any, job: BuildJob, reason: str) -> EngineError:
    if says_out_of_memory(reason):
        return MemoryRanOut(reason)
    return EngineError(f"{trt.__name__} {trt.__version__} cannot build stage {job.stage}: {reason}")


def _monitor(trt: Any, progress: Progress) -> Any:
    """Turns the builder's tree of phases into one fraction: a phase is part of its parent's current step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base exists once TensorRT is imported
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._phases: dict[str, _BuildPhase] = {}
            self._reached = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = _BuildPhase(self._phases.get(parent_phase or ""), num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phase = self._phases.get(phase_name)
            if phase is not None and not self.stopped:
                phase.done = step + 1
                self._reached = max(self._reached, phase.overall())  # a phase may start over
                self.stopped = not progress(self._reached)
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

    return Monitor()


@dataclass
class _BuildPhase:
    parent: _BuildPhase | None
    steps: int
    done: int = 0

    def overall(self, within: float = 0.0) -> float:
        """Fraction of the whole build when `within` of this phase's current step is done."""
        fraction = min(1.0, (self.done + within) / max(1, self.steps))
        return self.parent.overall(fraction) if self.parent else fraction
