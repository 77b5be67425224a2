"""The registry of objects: names, colours, and what is kept for the next run."""

from __future__ import annotations

import pytest

from runtime.live import Request
from runtime.objects import MAX_OBJECTS, Objects
from runtime.prompts import Prompt, Prompts
from runtime.tracking import Still
from stages.errors import InputError


def registry(*names: str) -> Objects:
    objects = Objects(Prompts(tuple(Prompt(name, (0, 0, 9, 9)) for name in names)), Still)
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
        entry, prompt = objects.asked(Request(0, points=((1, 1, 1),)), None)
        names.append(objects.take_up(entry, prompt).name)
        objects.remove(names[-1])
    assert names == ["3", "4", "5", "6"]
    _, prompt = objects.asked(Request(0, points=((1, 1, 1),)), None)
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


def test_there_are_only_so_many_objects() -> None:
    objects = registry(*map(str, range(MAX_OBJECTS)))
    with pytest.raises(InputError, match="there are 50 objects already"):
        objects.asked(Request(0, points=((1, 1, 1),)), None)


def test_what_was_never_found_is_kept_as_it_was_given() -> None:
    objects = registry("a")
    objects.add("dog", Prompt("2", None, ((5, 5, 1),), from_frame=70))
    objects.entries[0].box = (1, 2, 3, 4)
    assert objects.last_seen().entries == (Prompt("a", (1, 2, 3, 4)), Prompt("dog", None, ((5, 5, 1),)))


def test_every_change_is_counted() -> None:
    objects = registry("a")
    seen = {objects.changes}
    objects.rename("a", "b")
    seen.add(objects.changes)
    entry, prompt = objects.asked(Request(3, "b", box_xyxy=(1, 1, 5, 5)), None)
    assert objects.changes in seen  # asking alone changes nothing
    objects.take_up(entry, prompt)
    seen.add(objects.changes)
    objects.remove("b")
    seen.add(objects.changes)
    assert len(seen) == 4
