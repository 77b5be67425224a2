"""Undo and redo of what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.objects.history import STEPS, History, Step
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import ObjectRegistry, TrackedObject
from runtime.objects.tracking import FixedPrompt
from stages.errors import InputError


class Changes:
    """Objects that are started and removed as a Follower does."""

    def __init__(self) -> None:
        self.objects = ObjectRegistry(Prompts(()), FixedPrompt)
        self.history = History(self.objects)
        self.on_frame: dict[str, Any] = {}

    def start(self, name: str, x: float, entry: TrackedObject | None = None) -> TrackedObject:
        before = Step.of(entry, self.objects, self.on_frame) if entry else None
        started = self.objects.start(entry, Prompt(name, None, ((x, 1.0, 1),)))
        self.history.note(before or Step(started, None, self.on_frame))
        self.on_frame[started.key] = f"found at {x}"
        return started

    def remove(self, name: str) -> None:
        self.history.note(Step.of(self.objects.named(name), self.objects, {}))
        self.objects.remove(name)

    @property
    def points(self) -> dict[str, float]:
        return {entry.name: entry.prompt.points[0][0] for entry in self.objects.entries}


def test_points_go_back_and_forth_with_what_was_found() -> None:
    changes = Changes()
    cup = changes.start("cup", 1)
    changes.start("cup", 2, cup)
    changes.start("dish", 3)
    seen = [(changes.points, dict(changes.on_frame))]
    for _ in range(3):
        changes.history.undo()
        seen.append((changes.points, dict(changes.on_frame)))
    assert [points for points, _ in seen] == [{"cup": 2, "dish": 3}, {"cup": 2}, {"cup": 1}, {}]
    assert [found for _, found in seen[1:]] == [{"cup": "found at 2"}, {"cup": "found at 1"}, {}]
    for expected in reversed(seen[:-1]):
        changes.history.redo()
        assert (changes.points, changes.on_frame) == expected


def test_what_is_asked_anew_cannot_be_redone() -> None:
    changes = Changes()
    cup = changes.start("cup", 1)
    changes.start("cup", 2, cup)
    changes.history.undo()
    assert changes.history.redoable
    changes.start("cup", 5, cup)
    assert not changes.history.redoable
    with pytest.raises(InputError, match="nothing to redo"):
        changes.history.redo()


def test_a_name_that_is_taken_meanwhile_keeps_the_step_for_later() -> None:
    changes = Changes()
    changes.start("cup", 1)
    changes.remove("cup")
    other = changes.objects.add("cup", Prompt("other", None, ((7.0, 1.0, 1),)))
    with pytest.raises(InputError, match="another object is named cup"):
        changes.history.undo()
    assert changes.points == {"cup": 7}
    changes.objects.rename("cup", "mug")
    changes.history.undo()
    assert changes.points == {"mug": 7, "cup": 1}
    assert len({entry.colour for entry in changes.objects.entries}) == 2
    assert other.colour == 0  # it had the colour first


def test_a_name_given_since_stays() -> None:
    changes = Changes()
    cup = changes.start("cup", 1)
    changes.start("cup", 2, cup)
    changes.objects.rename("cup", "mug")
    assert changes.history.undo().entry.name == "mug"
    assert changes.points == {"mug": 1}


def test_the_newest_changes_alone_are_kept() -> None:
    changes = Changes()
    cup = changes.start("cup", 0)
    for x in range(1, STEPS + 5):
        changes.start("cup", x, cup)
    for _ in range(STEPS):
        changes.history.undo()
    assert changes.points == {"cup": 4}
    with pytest.raises(InputError, match="nothing to undo"):
        changes.history.undo()


def test_what_was_removed_has_its_place_among_the_others_again() -> None:
    changes = Changes()
    for x, name in enumerate("abc"):
        changes.start(name, x)
    changes.remove("b")
    changes.history.undo()
    assert list(changes.points) == ["a", "b", "c"]
