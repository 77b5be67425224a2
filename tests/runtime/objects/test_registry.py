"""The registry of objects: names, colours, and what is kept for the next run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.registry import MAX_OBJECTS, ObjectRegistry
from runtime.objects.tracking import FixedPrompt
from stages.errors import InputError


def registry(*names: str) -> ObjectRegistry:
    objects = ObjectRegistry(Prompts(tuple(Prompt(name, (0, 0, 9, 9)) for name in names)), FixedPrompt)
    objects.start_due(0)
    return objects


def test_colours_stay_and_the_lowest_free_one_is_given_next() -> None:
    objects = registry("a", "b", "c")
    objects.remove("b")
    assert [(entry.name, entry.colour) for entry in objects.entries] == [("a", 0), ("c", 2)]
    objects.add("d", Prompt("d", (0, 0, 9, 9)))
    assert [(entry.name, entry.colour) for entry in objects.entries] == [("a", 0), ("c", 2), ("d", 1)]


def test_new_objects_get_numbers_that_nobody_had() -> None:
    objects = registry("1", "2")
    objects.rename("1", "7")
    names = []
    for _ in range(4):
        entry, prompt = objects.resolve(PromptRequest(0, points=((1, 1, 1),)), None)
        names.append(objects.start(entry, prompt).name)
        objects.remove(names[-1])
    assert names == ["3", "4", "5", "6"]
    _, prompt = objects.resolve(PromptRequest(0, points=((1, 1, 1),)), None)
    assert prompt.name == "8"


def test_names_are_unique_short_and_printable() -> None:
    objects = registry("a", "b")
    objects.rename("a", "a")
    for new, words in (
        ("b", "another object is named b"),
        ("", "1 to 40"),
        ("x" * 41, "1 to 40"),
        ("\x1b", "1 to 40"),
    ):
        with pytest.raises(InputError, match=words):
            objects.rename("a", new)
    with pytest.raises(InputError, match="there is no object c"):
        objects.rename("c", "d")


def test_names_that_prompts_bring_later_are_taken() -> None:
    box, click = (0.0, 0.0, 9.0, 9.0), PromptRequest(0, points=((1, 1, 1),))
    later = Prompts((Prompt("1", box, from_frame=5), Prompt("cup", box, from_frame=6)))
    objects = ObjectRegistry(later, FixedPrompt)
    clicked = objects.start(*objects.resolve(click, None))
    assert clicked.name == "2"
    with pytest.raises(InputError, match="another object is named cup"):
        objects.rename("2", "cup")
    objects.start_due(6)
    assert [entry.name for entry in objects.entries] == ["2", "1", "cup"]
    assert clicked.prompt.points == click.points


def test_an_object_may_have_its_first_name_again() -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    objects = ObjectRegistry(Prompts((Prompt("a", box), Prompt("a", box, from_frame=5))), FixedPrompt)
    objects.start_due(0)
    objects.rename("a", "cup")
    objects.rename("cup", "a")
    assert [entry.name for entry in objects.entries] == ["a"]


def test_there_are_only_so_many_objects() -> None:
    objects = registry(*map(str, range(MAX_OBJECTS)))
    with pytest.raises(InputError, match="there are 50 objects already"):
        objects.resolve(PromptRequest(0, points=((1, 1, 1),)), None)


def test_what_was_never_found_is_kept_as_it_was_given() -> None:
    objects = registry("a")
    objects.add("dog", Prompt("2", None, ((5, 5, 1),), from_frame=70))
    objects.entries[0].box = (1, 2, 3, 4)
    dog = Prompt("dog", None, ((5, 5, 1),))
    assert objects.last_seen().entries == (
        Prompt("a", (1, 2, 3, 4), asked=objects.entries[0].prompt),
        replace(dog, asked=dog),
    )


def test_what_was_asked_for_is_kept_over_runs_until_something_else_is() -> None:
    asked = Prompt("a", None, ((5, 5, 1),))
    objects = ObjectRegistry(Prompts((Prompt("a", (1, 2, 3, 4), asked=asked),)), FixedPrompt)
    objects.start_due(0)
    assert objects.last_seen().entries == (Prompt("a", (1, 2, 3, 4), asked=asked),)  # not found yet
    entry = objects.entries[0]
    entry.box = (2, 2, 4, 4)
    objects.rename("a", "dog")
    assert objects.last_seen().entries == (
        Prompt("dog", (2, 2, 4, 4), asked=Prompt("dog", None, ((5, 5, 1),))),
    )
    _, other = objects.resolve(PromptRequest(9, "dog", ((7, 7, 1),)), (2, 2, 4, 4))
    objects.start(entry, other)
    assert objects.last_seen().entries[0].asked == replace(other, name="dog", from_frame=0)


def test_what_has_not_started_yet_is_kept_for_the_next_run() -> None:
    """A run that ends before its first frame must not empty its state file."""
    box = (0.0, 0.0, 9.0, 9.0)
    given = Prompts((Prompt("a", box), Prompt("b", box, from_frame=3), Prompt("a", box, from_frame=5)))
    objects = ObjectRegistry(given, FixedPrompt)
    assert objects.last_seen() == given
    objects.start_due(3)
    objects.rename("a", "cup")
    assert objects.last_seen().entries == (
        Prompt("cup", box, asked=Prompt("cup", box)),
        Prompt("b", box, asked=Prompt("b", box)),
        Prompt("cup", box, from_frame=5),
    )


def test_every_change_is_counted() -> None:
    objects = registry("a")
    seen = {objects.changes}
    objects.rename("a", "b")
    seen.add(objects.changes)
    entry, prompt = objects.resolve(PromptRequest(3, "b", box_xyxy=(1, 1, 5, 5)), None)
    assert objects.changes in seen  # asking alone changes nothing
    objects.start(entry, prompt)
    seen.add(objects.changes)
    objects.remove("b")
    seen.add(objects.changes)
    assert len(seen) == 4


def test_a_new_object_gets_the_name_it_is_given_if_nobody_has_it() -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    objects = ObjectRegistry(Prompts((Prompt("later", box, from_frame=5),)), FixedPrompt)
    objects.promise("soon")
    made = objects.start(*objects.resolve(PromptRequest(0, box_xyxy=box, new_name="cup"), None))
    assert (made.name, made.prompt.box_xyxy) == ("cup", box)
    for taken in ("cup", "later", "soon"):
        with pytest.raises(InputError, match=f"another object is named {taken}; give each its own name"):
            objects.resolve(PromptRequest(0, box_xyxy=box, new_name=taken), None)


def test_objects_as_they_were_asked_for_last() -> None:
    box, asked = (0.0, 0.0, 9.0, 9.0), Prompt("a", None, ((1, 1, 1),))
    earlier = Prompt("a", box, asked=asked)  # where an earlier run has seen it
    objects = ObjectRegistry(
        Prompts((earlier, Prompt("b", box), Prompt("b", None, ((2, 2, 1),), 7))), FixedPrompt
    )
    objects.start_due(0)
    objects.rename("b", "cup")
    entry = objects.named("cup")
    objects.start(*objects.resolve(PromptRequest(3, "cup", ((4, 4, 0),)), (1, 1, 8, 8)))
    assert entry.prompt.name == "b"
    entry.place_s = 0.2
    assert objects.as_asked(lambda prompt, place_s: round(10 * (place_s or 0))).entries == (
        asked,
        Prompt("cup", (1, 1, 8, 8), ((4, 4, 0),), 2),
        Prompt("cup", None, ((2, 2, 1),), 7),
    )
