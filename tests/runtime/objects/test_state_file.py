"""The state file of a live run: what it holds, when it is used, and what is told of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.state_file import StateFile, check_state, hash_of, opened_state, state_path
from stages.errors import InputError

GIVEN = Prompts((Prompt("cup", (0, 0, 9, 9)),))
CLICKED = Prompt("cup", None, ((310.25, 205, 1), (3, 4, 0)))
SEEN = Prompt("cup", (251.504, 140, 380, 262.5), asked=CLICKED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.state.json"


def opened(path: Path, given: Prompts | None) -> tuple[tuple[Prompt, ...], list[str]]:
    """The objects to begin with, and what is told."""
    told: list[str] = []
    with opened_state(path, given, told.append) as (_, prompts):
        return prompts.entries, told


def test_the_file_is_as_documented(path: Path) -> None:
    StateFile(path, "9f3c").write(Prompts((SEEN, Prompt("late", (1, 1, 2, 2), from_frame=30))))
    assert json.loads(path.read_text()) == {
        "format": 1,
        "given": "9f3c",
        "objects": [
            {
                "name": "cup",
                "from_frame": 0,
                "points": [[310.25, 205, 1], [3, 4, 0]],
                "seen": [251.5, 140, 380, 262.5],
            },
            {"name": "late", "from_frame": 30, "box": [1, 1, 2, 2]},
        ],
    }


def test_an_object_is_looked_for_where_it_was_seen_and_keeps_its_points_over_runs(path: Path) -> None:
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    before = path.read_bytes()
    entries, told = opened(path, GIVEN)
    assert entries == (replace(SEEN, box_xyxy=(251.5, 140, 380, 262.5)),)
    assert told == [f"objects of the last run, from {path}: cup"]
    StateFile(path, hash_of(GIVEN)).write(Prompts(entries))  # as a run does that has not found it yet
    assert path.read_bytes() == before


def test_an_object_that_was_never_seen_is_looked_for_by_its_points(path: Path) -> None:
    StateFile(path, "").write(Prompts((replace(CLICKED, asked=CLICKED),)))
    (entry,), _ = opened(path, None)
    assert (entry.box_xyxy, entry.points, entry.asked) == (None, CLICKED.points, CLICKED)


@pytest.mark.parametrize("given", [GIVEN, None], ids=["prompts", "nothing"])
def test_without_a_file_a_run_begins_with_what_it_is_given(path: Path, given: Prompts | None) -> None:
    assert opened(path, given) == ((given or Prompts(())).entries, [])


def test_a_state_file_alone_is_enough(path: Path) -> None:
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    entries, _ = opened(path, None)
    assert [entry.name for entry in entries] == ["cup"]
    with opened_state(path, None, lambda line: None) as (state, _):
        assert state == StateFile(path, hash_of(GIVEN))  # so that the same prompts are no change later


def test_prompts_that_were_changed_since_win_and_that_is_told(path: Path) -> None:
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    changed = Prompts((Prompt("dog", (1, 1, 5, 5)),))
    entries, (line,) = opened(path, changed)
    assert entries == changed.entries
    assert (
        line == f"the prompts were changed since {path} was written: they are taken, and its objects are not"
    )


def test_prompts_that_were_emptied_win_too(path: Path) -> None:
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    assert opened(path, Prompts(()))[0] == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"\0" + data[1:],  # a write in place that was cut off
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b'"seen"', b'"saw"'),
        lambda data: data.replace(b"251.5", b'"x"'),
        lambda data: data.replace(b'"objects": [', b'"objects": [3,'),
        lambda data: data.replace(b'"given"', b'"got"'),
        lambda data: data + b"\xff",
        lambda data: data[:1],
        lambda data: data[:12],
        lambda data: b"\0" + data[1:5],
    ],
)
def test_a_damaged_file_is_told_and_not_used(path: Path, damage: object) -> None:
    assert callable(damage)
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    path.write_bytes(damage(path.read_bytes()))
    entries, (line,) = opened(path, GIVEN)
    assert entries == GIVEN.entries
    assert line.startswith(f"state file {path} is damaged (")
    check_state(path)  # a run would use the name


def test_an_empty_file_is_none_yet(path: Path) -> None:
    """As somebody makes it who mounts it into a container."""
    path.touch()
    assert opened(path, GIVEN) == (GIVEN.entries, [])


@pytest.mark.parametrize("content", ['{"objects": []}', "my diary", "\0\0\0 ftypmp42"])
def test_a_file_of_somebody_else_is_refused_and_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    for trial in (lambda: opened(path, GIVEN), lambda: check_state(path)):
        with pytest.raises(InputError, match=r"is no state file of a run, so it is not written to;"):
            trial()
    assert path.read_text() == content


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match=r"state file .* cannot be read \(Is a directory\); give another"):
        opened(path, GIVEN)


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"cannot be read \(it is a pipe that nobody writes to\)"):
        opened(path, GIVEN)


def test_an_error_of_a_run_without_its_own_state_has_no_other_before_it(path: Path) -> None:
    def run() -> None:
        with opened_state(path, GIVEN, lambda text: None), opened_state(path, GIVEN, lambda text: None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    assert caught.value.__context__ is None


def test_another_run_s_objects_are_left_alone(path: Path) -> None:
    StateFile(path, hash_of(GIVEN)).write(Prompts((SEEN,)))
    told: list[str] = []
    with (
        opened_state(path, GIVEN, lambda line: None),
        opened_state(path, GIVEN, told.append) as (state, prompts),
    ):
        assert state is None
        assert prompts == GIVEN
    (line,) = told
    assert line.startswith(f"another run keeps its objects in {path};")
    assert opened(path, GIVEN)[0] != GIVEN.entries


def test_a_look_alone_makes_no_file(path: Path) -> None:
    with opened_state(path, GIVEN, pytest.fail, lock=False):
        assert list(path.parent.iterdir()) == []


def test_the_file_is_the_one_asked_for_else_beside_the_prompts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    assert state_path(None, None) is None
    assert state_path(None, prompts) == tmp_path / "prompts.state.json"
    assert state_path(tmp_path / "x", prompts) == tmp_path / "x"
    with pytest.raises(InputError, match="--state and --prompts both name"):
        state_path(tmp_path / "a/../prompts.json", prompts)
