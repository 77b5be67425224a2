"""The objects of a run: which there are, from which frame on, under which name and colour.

Objects come from a prompts file or the command line, each from its frame on, and from viewers of a live run.
`runtime.follow` finds them on frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

from runtime.decode import ObjectMask
from runtime.live import Request
from runtime.prompts import Prompt, Prompts
from runtime.tracking import Still
from stages.errors import InputError

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1 in frame pixels
MakeTrack: TypeAlias = Callable[[Prompt], Still]

MAX_OBJECTS = 50
MAX_NAME = 40


@dataclass
class Entry:
    """One object. `given` is what was asked for, in pixels of its frame `given.from_frame`.

    `found` is its mask on the newest frame it was looked for on, None while it is lost; `box` is where it was
    seen last. Inside masks and tracks it goes by `key`; `name` is what people call it.
    """

    key: str
    name: str
    colour: int
    given: Prompt
    track: Still
    found: ObjectMask | None = None
    box: Box | None = None

    def start_again(self, given: Prompt, make: MakeTrack) -> None:
        """Look for something else from now on, as the same object."""
        self.given, self.track, self.found = given, make(given), None


class Objects:
    """The registry. `make` decides how an object is followed. Belongs on one thread."""

    def __init__(self, prompts: Prompts, make: MakeTrack) -> None:
        self.entries: list[Entry] = []
        self.changes = 0  # grows whenever there are others than before
        self._make = make
        self._numbers = count(1)
        self._coming = sorted(prompts.entries, key=lambda prompt: prompt.from_frame)
        self._starts = {prompt.from_frame for prompt in prompts.entries}

    def due(self, number: int) -> bool:
        """Whether an object starts, or starts again, on this frame or before it."""
        return bool(self._coming) and self._coming[0].from_frame <= number

    def planned(self, number: int) -> bool:
        """Whether an object starts, or starts again, exactly on this frame."""
        return number in self._starts

    def start_due(self, number: int) -> None:
        """Take up the objects that are due on this frame."""
        while self.due(number):
            prompt = self._coming.pop(0)
            earlier = next((entry for entry in self.entries if entry.key == prompt.name), None)
            if earlier is None:
                self.add(prompt.name, prompt)
            else:
                earlier.start_again(prompt, self._make)
                self.changes += 1

    def asked(self, request: Request, seen: Box | None) -> tuple[Entry | None, Prompt]:
        """The object a request is about, None for a new one, and what to ask for; nothing is changed yet.

        `seen` is where the object was on the frame of the request. Points hold for the frame they were set
        on: those of an earlier one give way to the box around what was found.

        Raises InputError when there is no such object, there are too many or the request asks for nothing.
        """
        if request.name is None:
            if len(self.entries) >= MAX_OBJECTS:
                raise InputError(f"there are {MAX_OBJECTS} objects already; remove one first")
            return None, _prompt(self._free_name(), request, request.points, request.box_xyxy)
        entry = self.named(request.name)
        points, box = request.points, request.box_xyxy
        if request.number == entry.given.from_frame or (seen is None and box is None):
            points, box = (*entry.given.points, *points), box or entry.given.box_xyxy
        else:
            box = box or seen
        return entry, _prompt(entry.key, request, points, box)

    def take_up(self, entry: Entry | None, prompt: Prompt) -> Entry:
        """Start the object, or start it again with another prompt."""
        if entry is None or entry not in self.entries:
            return self.add(prompt.name, prompt)
        entry.start_again(prompt, self._make)
        self.changes += 1
        return entry

    def add(self, name: str, prompt: Prompt) -> Entry:
        entry = Entry(prompt.name, name, self._free_colour(), prompt, self._make(prompt))
        self.entries.append(entry)
        self.changes += 1
        return entry

    def named(self, name: str) -> Entry:
        """The object of this name; InputError when there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise InputError(f"there is no object {name:.80}")

    def remove(self, name: str) -> None:
        self.entries.remove(self.named(name))
        self.changes += 1

    def rename(self, name: str, new: str) -> None:
        entry = self.named(name)
        if not new.strip() or len(new) > MAX_NAME or not new.isprintable():
            raise InputError(f"an object's name is 1 to {MAX_NAME} printable characters")
        if new in self._names() - {name}:
            raise InputError(f"another object is named {new}; give each its own name")
        entry.name = new
        self.changes += 1

    def last_seen(self) -> Prompts:
        """The objects as a later run should look for them: by the box where each was seen last, if it was.

        What has not been found yet is asked for as it was given.
        """
        return Prompts(
            tuple(
                Prompt(entry.name, entry.box)
                if entry.box
                else replace(entry.given, name=entry.name, from_frame=0)
                for entry in self.entries
            )
        )

    def _names(self) -> set[str]:
        return {name for entry in self.entries for name in (entry.key, entry.name)}

    def _free_name(self) -> str:
        """A number that no object has or had, nor was promised to one that waits for its frame."""
        taken = self._names()
        return next(name for name in map(str, self._numbers) if name not in taken)

    def _free_colour(self) -> int:
        used = {entry.colour for entry in self.entries}
        return next(number for number in count() if number not in used)


def more_asked(prompt: Prompt, request: Request) -> Prompt:
    """A prompt with what a request adds, while its object waits for its frame."""
    box = request.box_xyxy or prompt.box_xyxy
    return _prompt(prompt.name, request, (*prompt.points, *request.points), box)


def _prompt(
    name: str, request: Request, points: tuple[tuple[float, float, int], ...], box: Box | None
) -> Prompt:
    return Prompt(name, box, tuple(points), request.number)
