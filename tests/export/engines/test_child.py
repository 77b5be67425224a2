"""What became of a builder that ended: by its engine and record, its exit, and what it printed."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from export.engines.builder import RTX, BuildJob, MemoryRanOut
from export.engines.child import Task, after_exit, build_in_child, error_file, kept
from stages.bundle import Bundle
from stages.engines.plans import plan_key, plan_path, save_plan
from stages.engines.tensorrt_engine import tensorrt_library
from stages.errors import EngineError
from stages.stops import end_at_once, handle, stop_signals
from tests.support.engines import BOARD, record_of

SAMPLES = Path(__file__).parents[2] / "jetson/samples"
PLAN = b"an engine"


@pytest.fixture
def task(bundle: Bundle) -> Task:
    key = plan_key(bundle, "global", BOARD, RTX, "1.7")
    job = BuildJob("global", bundle.path / "global/model.onnx", {}, "sm_86")
    return Task(job, key, BOARD, True, plan_path(bundle, "global", BOARD))


def test_a_builder_that_crashed_after_its_engine_was_kept_has_built_it(task: Task) -> None:
    assert task.plan is not None
    save_plan(task.plan, PLAN, record_of(task.key, PLAN))
    printed = (SAMPLES / "trt-build-oom-orin.txt").read_text()
    assert after_exit(task, -signal.SIGSEGV, printed) == record_of(task.key, PLAN)
    assert kept(task.plan, task.key) == record_of(task.key, PLAN)


def test_an_engine_that_is_not_there_was_not_built_whatever_was_said(task: Task) -> None:
    assert task.plan is not None
    with pytest.raises(
        EngineError, match=r"reported an engine, but .*global.plan cannot be used \(not built yet"
    ):
        kept(task.plan, task.key)
    save_plan(task.plan, PLAN, record_of(task.key, PLAN))
    task.plan.write_bytes(PLAN[:-1])
    with pytest.raises(EngineError, match=r"cannot be used \(its 8 bytes differ from the 9"):
        kept(task.plan, task.key)
    with pytest.raises(EngineError, match="ended with status 0, without saying why"):
        after_exit(task, 0, "")


def test_a_killed_builder_ran_out_of_memory(task: Task) -> None:
    with pytest.raises(
        MemoryRanOut, match=r"killed, as Linux does when memory runs out \([\d.]+ GB are free"
    ):
        after_exit(task, -signal.SIGKILL, "")


@pytest.mark.parametrize("line", (SAMPLES / "trt-build-oom-orin.txt").read_text().splitlines())
def test_a_builder_that_printed_of_memory_before_it_ended_ran_out_of_it(task: Task, line: str) -> None:
    with pytest.raises(MemoryRanOut) as ran_out:
        after_exit(task, -signal.SIGABRT, f"first\n{line}\nlast\n")
    assert str(ran_out.value).startswith(f"the builder was ended by SIGABRT ({line}; ")


def test_a_builder_that_ended_otherwise_is_quoted(task: Task) -> None:
    with pytest.raises(EngineError, match="global ended with status 3, saying 'no driver\\?'") as ended:
        after_exit(task, 3, "warning\nno driver\x07\n\n")
    assert not isinstance(ended.value, MemoryRanOut)


def test_what_a_dying_builder_writes_to_standard_error_is_heard(bundle: Bundle, task: Task) -> None:
    """In a real child, with shapes that TensorRT's bindings take for no shapes: Python says so, and ends."""
    library = tensorrt_library(RTX).__version__
    broken = replace(task, job=replace(task.job, shapes={"embedding": (("a",), ("b",), ("c",))}))  # type: ignore[dict-item]
    with pytest.raises(
        EngineError, match=r"stage global ended with status 1, saying .*Invoked with: .*IOptimizationProfile"
    ) as ended:
        build_in_child(replace(broken, key=replace(task.key, library_version=library)), lambda fraction: None)
    assert not isinstance(ended.value, MemoryRanOut)


class TellingKey:
    """Instead of a build, says what the signals do. To unpickle it does what a command does first."""

    def __reduce__(self) -> tuple[object, ...]:
        return _telling_key, ()

    @property
    def library(self) -> str:
        raise EngineError(" ".join(f"{signal.getsignal(number)!r}" for number in stop_signals()))


def _telling_key() -> TellingKey:
    handle(end_at_once)
    return TellingKey()


def test_a_signal_ends_a_builder_at_once_also_inside_tensorrt(task: Task) -> None:
    telling = replace(task, key=TellingKey(), present=False)  # type: ignore[arg-type]
    with pytest.raises(EngineError) as told:
        build_in_child(telling, lambda fraction: None)
    assert str(told.value) == " ".join([repr(signal.SIG_DFL)] * len(stop_signals()))


def test_without_a_folder_for_its_errors_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no temporary file can be made .*; free some disk, or set TMPDIR"):
        error_file(str(tmp_path / "nowhere"))
