"""One try at building one stage, in a process of its own.

A builder that runs out of memory is killed by the kernel or ends itself. In a child the parent lives to tell,
and the next try starts with all memory given back. Whether a stage was built is judged by its engine file and
the record beside it, never by what was logged.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from export.engines.builder import BuildJob, Built, MemoryRanOut, build
from stages.engines.devices import Device, available_bytes, free_bytes
from stages.engines.out_of_memory import says_out_of_memory
from stages.engines.plans import Attempt, PlanKey, PlanRecord, read_record, save_plan, why_not_reusable
from stages.engines.tensorrt_engine import tensorrt_library
from stages.errors import EngineError, printable
from stages.files import remove_left_over, replace_file
from stages.stops import handle

SAMPLE_S = 0.1
_PRINTED_BYTES, _PRINTED_CHARACTERS = 8192, 300  # of a child's standard error: read, and shown


@dataclass(frozen=True)
class Task:
    """What a child builds, and where it keeps it: `plan` None keeps nothing.

    `present` is false where the device is not on this machine. `failed` are the tries before this one.
    """

    job: BuildJob
    key: PlanKey
    device: Device
    present: bool
    plan: Path | None
    failed: tuple[Attempt, ...] = ()


def build_in_child(
    task: Task, progress: Callable[[float], None], note: Callable[[str], None] = lambda sentence: None
) -> PlanRecord:
    """The record of the plan that was built and kept. `progress` gets the fraction done, `note` a sentence
    about what could not be kept beside the plan.

    Raises MemoryRanOut, or EngineError for anything else that went wrong.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share CUDA's state, which CUDA forbids
    answers, ours = context.Pipe(duplex=False)
    with error_file() as errors:
        process = context.Process(target=_child, args=(task, ours, errors.name), daemon=True)
        _start_ignoring_interrupts(process)
        ours.close()
        try:
            record = _record_from(answers, progress, note)
            return record if task.plan is None else kept(task.plan, task.key)
        except EOFError:
            process.join()
            return after_exit(task, process.exitcode, _end_of(Path(errors.name)))
        finally:
            answers.close()
            process.terminate()
            process.join()
            if task.plan is not None:
                with contextlib.suppress(OSError):  # the folder may be what could not be made
                    remove_left_over(task.plan)


def error_file(folder: str | None = None) -> Any:
    """What a child writes its standard error to: a file, by default in the system's folder for such."""
    try:
        return tempfile.NamedTemporaryFile(dir=folder)
    except OSError as exc:
        raise EngineError(
            f"no temporary file can be made ({exc}); free some disk, or set TMPDIR to a folder that can be "
            "written"
        ) from exc


def _start_ignoring_interrupts(process: BaseProcess) -> None:
    """Ctrl-C reaches both processes: the child starts with SIGINT blocked, and the parent terminates it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _record_from(
    answers: Connection, progress: Callable[[float], None], note: Callable[[str], None]
) -> PlanRecord:
    while True:
        answer = answers.recv()
        if isinstance(answer, PlanRecord):
            return answer
        if isinstance(answer, EngineError):
            raise answer
        if isinstance(answer, str):
            note(answer)
        else:
            progress(answer)


# Judging


def kept(plan: Path, key: PlanKey) -> PlanRecord:
    """The record of a plan that lies where it should and fits. Raises EngineError when there is none."""
    if why := why_not_reusable(plan, key):
        raise EngineError(
            f"the builder of stage {key.stage} reported an engine, but {plan} cannot be used ({why}); see "
            "whether the disk is full or read-only, then run pedsam build again"
        )
    return read_record(plan)


def after_exit(task: Task, code: int | None, printed: str) -> PlanRecord:
    """What became of a child that ended without an answer; `printed` is the end of its standard error.

    A child that crashed once its engine was written has built it. Raises MemoryRanOut or EngineError else.
    """
    if task.plan is not None and why_not_reusable(task.plan, task.key) is None:
        return read_record(task.plan)
    free = f"{available_bytes() / 1e9:.1f} GB are free now"
    if code == -signal.SIGKILL:
        raise MemoryRanOut(f"the builder was killed, as Linux does when memory runs out ({free})")
    how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
    if says_out_of_memory(printed):
        raise MemoryRanOut(f"the builder {how} ({_last_line(printed)}; {free})")
    why = f"saying {_last_line(printed)!r}" if printed.strip() else "without saying why"
    raise EngineError(f"the build of stage {task.job.stage} {how}, {why} ({free})")


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _PRINTED_BYTES))
        return file.read().decode(errors="replace")


def _last_line(printed: str) -> str:
    """The last line about memory, else the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    about = [line for line in lines if says_out_of_memory(line)] or lines
    return printable(about[-1][:_PRINTED_CHARACTERS])


# The child


def _child(task: Task, answers: Connection, errors: str) -> None:
    """Sends fractions, then a PlanRecord or an EngineError."""
    handle(signal.SIG_DFL)  # TensorRT never returns to Python, so to a handler that pedsam.command has set
    # Drivers and compilers write why they end the process there, past Python and TensorRT's logger.
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    stage = task.job.stage
    try:
        answers.send(_build_and_keep(task, lambda fraction: _send_progress(answers, fraction), answers.send))
    except EngineError as exc:
        answers.send(type(exc)(str(exc)))  # its cause may not travel
    except OSError as exc:
        answers.send(EngineError(f"the engine of stage {stage} cannot be kept: {exc}"))
    except MemoryError:
        answers.send(MemoryRanOut("Python ran out of memory"))


def _send_progress(answers: Connection, fraction: float) -> bool:
    try:
        answers.send(fraction)
    except OSError:  # the parent has closed the pipe: stop building
        return False
    return True


def _build_and_keep(task: Task, progress: Callable[[float], bool], note: Callable[[str], None]) -> PlanRecord:
    job = task.job
    with _PeakMemory(task) as memory:
        trt = tensorrt_library(task.key.library)
        cache = _cache_path(task)
        if cache is not None:
            job = replace(job, timing_cache=_read_cache(cache, note))
        built = build(trt, job, progress)
    record = _record(task, built, memory.peak)
    if task.plan is not None:
        save_plan(task.plan, memoryview(built.plan), record)
    if cache is not None and built.timing_cache:
        _write_cache(cache, built.timing_cache, note)
    return record


def _read_cache(cache: Path, note: Callable[[str], None]) -> bytes:
    try:
        return cache.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        note(f"built without the timing cache {cache}, which cannot be read ({exc.strerror})")
        return b""


def _write_cache(cache: Path, data: bytes, note: Callable[[str], None]) -> None:
    """The engine is kept already: without its cache the next build takes longer, and that is all."""
    try:
        replace_file(cache, data)
    except OSError as exc:
        note(f"the timing cache {cache} cannot be written ({exc.strerror}); the next build takes longer")


def _record(task: Task, built: Built, peak: int) -> PlanRecord:
    plan, job = memoryview(built.plan), task.job
    return PlanRecord(
        key=task.key,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=plan.nbytes,
        build_s=round(built.seconds, 1),
        weights_bytes=built.weights_bytes,
        activation_bytes=built.activation_bytes,
        peak_bytes=peak,
        attempts=(*task.failed, Attempt(job.workspace_bytes, job.optimization_level, "built")),
    )


def _cache_path(task: Task) -> Path | None:
    """The timing cache, which shortens later builds with the same TensorRT on this device."""
    return task.plan.with_name(f"timing-{task.key.library_version}.cache") if task.plan else None


class _PeakMemory:
    """Samples the memory that the block uses: `peak` bytes.

    With a GPU, how much less device memory is free than at the start (of an integrated GPU that is the
    system's); without one, the resident size of this process.
    """

    def __init__(self, task: Task) -> None:
        self._device = task.device if task.present else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._free = free_bytes(self._device) if self._device else 0
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
        if self._device:
            return self._free - free_bytes(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
