"""What is tried when memory runs out, with tries that a test decides."""

from __future__ import annotations

import pytest

from export.engines.builder import MemoryRanOut
from export.engines.ladder import RUNGS, climb
from stages.engines.plans import Attempt
from stages.errors import EngineError

Settings = tuple[int | None, int | None]


class Builder:
    """Runs out of memory with each of `failures`, then builds; keeps what it was given."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.tried: list[Settings] = []
        self.before: tuple[Attempt, ...] = ()

    def __call__(self, workspace: int | None, level: int | None, failed: tuple[Attempt, ...]) -> str:
        self.tried.append((workspace, level))
        self.before = failed
        if self.failures:
            raise MemoryRanOut(self.failures.pop(0))
        return "built"


def climbed(builder: Builder, *free: int | None) -> list[str]:
    """The notes of a climb that ends well; `free` is what the first rung would get, asked before each try."""
    answers, notes = list(free), list[str]()
    whole = lambda: answers.pop(0) if len(answers) > 1 else answers[0]  # noqa: E731
    assert climb("window", RUNGS, whole, builder, notes.append) == "built"
    return notes


def test_what_builds_at_once_is_tried_once() -> None:
    builder = Builder()
    assert climbed(builder, 800) == []
    assert (builder.tried, builder.before) == ([(800, None)], ())


def test_less_workspace_goes_before_a_lower_level() -> None:
    builder = Builder("killed", "killed", "killed", "killed")
    notes = climbed(builder, 800)
    assert builder.tried == [(800, None), (400, None), (200, None), (200, 1), (400, 0)]
    assert builder.before == tuple(Attempt(*settings, "killed") for settings in builder.tried[:4])
    assert len(notes) == 4
    assert notes[2] == "killed; trying 0.0 MB of workspace at optimisation level 1"


def test_memory_is_asked_for_before_every_try() -> None:
    builder = Builder("killed", "killed")
    climbed(builder, 800, 600, 2000)
    assert builder.tried == [(800, None), (300, None), (500, None)]


def test_a_device_without_a_limit_gets_one_when_memory_ran_out() -> None:
    builder = Builder("cudaMalloc: out of memory")
    notes = climbed(builder, None, 6_000_000)
    assert builder.tried == [(None, None), (3_000_000, None)]
    assert notes == ["cudaMalloc: out of memory; trying 3.0 MB of workspace"]


def test_a_limit_that_was_too_little_is_doubled() -> None:
    wants = "OutOfMemory (Requested size was 900 bytes.)"
    builder = Builder(wants, wants, "killed")
    climbed(builder, 300)
    assert builder.tried == [(300, None), (600, None), (1200, None), (1200, 1)]


def test_other_errors_end_it() -> None:
    def broken(workspace: int | None, level: int | None, failed: tuple[Attempt, ...]) -> str:
        raise EngineError("node 7 is not supported")

    with pytest.raises(EngineError, match=r"^node 7 is not supported$"):
        climb("window", RUNGS, lambda: 800, broken, lambda note: pytest.fail(note))


def test_an_end_names_every_try_the_last_reason_and_what_helps() -> None:
    builder = Builder(*"abcde")
    with pytest.raises(EngineError) as ended:
        climb("window", RUNGS, lambda: 800_000_000, builder, lambda note: None)
    assert not isinstance(ended.value, MemoryRanOut)
    text = str(ended.value)
    assert text.startswith("memory ran out while building stage window, tried with 800.0 MB of workspace, ")
    assert "400.0 MB of workspace at optimisation level 0: e; stages built before it are kept; what" in text
    assert all(
        words in text for words in ("pedsam flash --headless", "isolate multi-user.target", "swap file")
    )
