"""Build a bundle's engines: what is missing or no longer fits, one child process a stage.

A process of its own because a builder that runs out of memory is killed without a word: so the one that
asked for it lives to say so, and each stage starts with the memory of the one before given back.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from export.builder import MEMORY_HELPS, RTX, Job, build
from stages.bundle import Bundle
from stages.devices import Device, available_bytes, free_bytes
from stages.errors import EngineError
from stages.plans import (
    PlanKey,
    PlanRecord,
    plan_key,
    plan_path,
    read_record,
    replace_file,
    save_plan,
    temporary_path,
    why_not_reusable,
)
from stages.tensorrt_engine import tensorrt_library

# What each place needs, and what is built for it where the bundle holds it: an edge's window stage is its own
# fallback, and `whole` is what --verify compares with.
PLACES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "site": (("window",), ()),
    "edge": (("global", "decoder"), ("window",)),
    "held": ((), ("window", "global", "decoder")),
    "all": ((), ("window", "global", "decoder", "whole")),
}
# What the builder takes before it holds any network: over 1.5 GB are reported of an 8 GB Jetson Orin Nano.
LIBRARY_BYTES = 1_600_000_000
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Target:
    """What to build for. `present` is false for a device that is not on this machine: only the builder of
    TensorRT for RTX works so, and what it makes is thrown away, as nothing here can try it."""

    device: Device
    library: str
    version: str
    present: bool = True
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """One stage after `build_stage`: its record, and why it was built, or None when it was reused."""

    stage: str
    record: PlanRecord
    reason: str | None


def target_for(device: Device | None, parse_only: str | None, workspace_mb: int | None) -> Target:
    """What `pedsam build` builds for: `device`, the GPU of this machine, or a compute capability to try.

    Raises EngineError when there is no GPU to build for or no TensorRT to build with.
    """
    workspace = workspace_mb * 2**20 if workspace_mb is not None else None
    if parse_only is not None:
        trt = tensorrt_library(RTX)
        capability = (int(parse_only[3:-1]), int(parse_only[-1]))
        declared = Device("parse only", capability, 0, integrated=False)
        return Target(declared, RTX, trt.__version__, present=False, workspace_bytes=workspace)
    if device is None:
        raise EngineError(
            "no NVIDIA GPU is visible here, and engines are built on the device they run on; build there, or "
            "try the graphs with --parse-only"
        )
    trt = tensorrt_library()
    return Target(device, trt.__name__, trt.__version__, workspace_bytes=workspace)


def stages_of(bundle: Bundle, place: str) -> tuple[str, ...]:
    """Stages to build for a key of PLACES. Raises EngineError when this copy of the bundle lacks one."""
    needed, optional = PLACES[place]
    missing = [name for name in needed if not bundle.has(name)]
    held = (*needed, *(name for name in optional if bundle.has(name)))
    if missing or not held:
        raise EngineError(
            f"{bundle.path} does not hold {' and '.join(missing or optional)}; copy the folders from the "
            "full bundle"
        )
    return held


def expected_peak(bundle: Bundle, name: str, target: Target) -> int:
    """Bytes that building a stage may take, as far as they can be told before: the library, the weights
    twice (as parsed, and in the plan), and the workspace if it is limited."""
    weights = sum((bundle.path / file).stat().st_size for file in bundle.stage(name).files)
    return LIBRARY_BYTES + 2 * weights + (target.workspace_bytes or 0)


def build_stage(bundle: Bundle, name: str, target: Target, progress: Callable[[float], None]) -> Row:
    """Build one stage in a process of its own, or reuse the plan that is there and still fits.

    `progress` gets the fraction done. Raises EngineError or BundleError; a plan that did not fit then stays,
    still refused, and those of other stages are untouched.
    """
    plan = plan_path(bundle, name, target.device)
    key = plan_key(bundle, name, target.device, target.library, target.version)
    reason = why_not_reusable(plan, key) if target.present else "parse only"
    if reason is None:
        return Row(name, read_record(plan), None)
    job = Job(name, bundle.verified_file(name), key.shapes, target.device.sm, target.workspace_bytes)
    return Row(name, _in_child(_Task(job, key, target, plan if target.present else None), progress), reason)


@dataclass(frozen=True)
class _Task:
    """What a child builds. `plan` None: nothing is kept."""

    job: Job
    key: PlanKey
    target: Target
    plan: Path | None


def _in_child(task: _Task, progress: Callable[[float], None]) -> PlanRecord:
    context = multiprocessing.get_context("spawn")  # a fork would share CUDA's state, which CUDA forbids
    answers, ours = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, ours), name=f"build {task.job.stage}", daemon=True)
    _start_deaf_to_interrupts(process)
    ours.close()
    try:
        return _record_from(answers, progress)
    except EOFError:
        process.join()
        raise _death(task, process.exitcode) from None
    finally:
        answers.close()
        process.terminate()
        process.join()
        if task.plan is not None:
            with contextlib.suppress(OSError):  # the folder may be what could not be made
                temporary_path(task.plan).unlink()


def _start_deaf_to_interrupts(process: BaseProcess) -> None:
    """Ctrl-C reaches both processes; the child keeps it blocked from its start, and the parent ends it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _record_from(answers: Connection, progress: Callable[[float], None]) -> PlanRecord:
    while True:
        answer = answers.recv()
        if isinstance(answer, PlanRecord):
            return answer
        if isinstance(answer, EngineError):
            raise answer
        progress(answer)


def _death(task: _Task, code: int | None) -> EngineError:
    stage, free = task.job.stage, f"{available_bytes() / 1e9:.1f} GB are free now"
    if code == -signal.SIGKILL:
        return EngineError(
            f"the build of stage {stage} was killed, as Linux does when memory runs out ({free}); stages "
            f"built before it are kept; {MEMORY_HELPS}"
        )
    how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
    return EngineError(
        f"the build of stage {stage} {how} without saying why ({free}); if it is memory, {MEMORY_HELPS}"
    )


def _work(task: _Task, answers: Connection) -> None:
    """The child: sends fractions, then a PlanRecord or an EngineError."""
    try:
        answers.send(_build_and_keep(task, lambda fraction: _tell(answers, fraction)))
    except EngineError as exc:
        answers.send(EngineError(str(exc)))  # its cause may not travel
    except OSError as exc:
        answers.send(EngineError(f"the engine of stage {task.job.stage} cannot be kept: {exc}"))
    except MemoryError:
        answers.send(EngineError(f"memory ran out while building stage {task.job.stage}; {MEMORY_HELPS}"))


def _tell(answers: Connection, fraction: float) -> bool:
    try:
        answers.send(fraction)
    except OSError:  # nobody listens any more: stop building
        return False
    return True


def _build_and_keep(task: _Task, progress: Callable[[float], bool]) -> PlanRecord:
    with _PeakMemory(task.target) as memory:
        trt = tensorrt_library(task.target.library)
        cache = _cache_path(task)
        if cache is not None and cache.exists():
            task = replace(task, job=replace(task.job, timing_cache=cache.read_bytes()))
        built = build(trt, task.job, progress)
    plan = memoryview(built.plan)
    record = PlanRecord(
        key=task.key,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=plan.nbytes,
        build_s=round(built.seconds, 1),
        weights_bytes=built.weights_bytes,
        activation_bytes=built.activation_bytes,
        peak_bytes=memory.peak,
    )
    if task.plan is not None:
        save_plan(task.plan, plan, record)
    if cache is not None and built.timing_cache:
        replace_file(cache, built.timing_cache)
    return record


def _cache_path(task: _Task) -> Path | None:
    """Timings of kernels on this device, which shorten later builds by the same TensorRT."""
    return task.plan.with_name(f"timing-{task.target.version}.cache") if task.plan else None


class _PeakMemory:
    """Samples, while the block runs, how much memory it takes: `peak` bytes.

    On a GPU of this machine what became less free of the memory that engines live in, which on an integrated
    GPU is the system's; without one the resident size of this process.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._free = free_bytes(target.device) if target.present else 0
        self.peak = 0

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            last = self._ended.wait(SAMPLE_S)
            self.peak = max(self.peak, self._used())
            if last:
                return

    def _used(self) -> int:
        if self._target.present:
            return self._free - free_bytes(self._target.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
