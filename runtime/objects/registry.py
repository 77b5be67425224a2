"""The objects of a run: which there are, from which frame on, under which name and colour.

Objects come from a prompts file or the command line, each from its frame on, and from viewers of a live run.
`runtime.objects.follower` finds them on frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

from runtime.objects.decode import ObjectMask
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.tracking import FixedPrompt
from stages.errors import InputError

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1 in frame pixels
MakeTrack: TypeAlias = Callable[[Prompt], FixedPrompt]

MAX_OBJECTS = 50
MAX_NAME = 40


@dataclass
class TrackedObject:
    """One object. `prompt` is what was asked for, in pixels of its frame `prompt.from_frame`.

    `found` is its mask on the newest frame it was looked for on, None while it is lost; `box` is where it was
    seen last, None until it was. Inside masks and tracks it goes by `key`; `name` is what people call it.
    """

    key: str
    name: str
    colour: int
    prompt: Prompt
    track: FixedPrompt
    found: ObjectMask | None = None
    box: Box | None = None

    def start_again(self, prompt: Prompt, make: MakeTrack) -> None:
        """Look for something else from now on, as the same object."""
        self.prompt, self.track, self.found, self.box = prompt, make(prompt), None, None


class ObjectRegistry:
    """All objects by name. `make` decides how an object is followed. Belongs on one thread.

    A name is taken by the object that has it, by one that the prompts file starts later, and by one that
    waits for its frame: those are in `promised`.
    """

    def __init__(self, prompts: Prompts, make: MakeTrack) -> None:
        self.entries: list[TrackedObject] = []
        self.changes = 0  # grows whenever there are others than before
        self.promised: set[str] = set()
        self._make = make
        self._numbers = count(1)
        self._coming = sorted(prompts.entries, key=lambda prompt: prompt.from_frame)
        self._starts = {prompt.from_frame for prompt in prompts.entries}

    def due(self, number: int) -> bool:
        """Whether an object starts, or starts again, on this frame or before it."""
        return bool(self._coming) and self._coming[0].from_frame <= number

    def starts_on(self, number: int) -> bool:
        """Whether an object starts, or starts again, exactly on this frame."""
        return number in self._starts

    def start_due(self, number: int) -> None:
        """Start the objects that are due on this frame."""
        while self.due(number):
            prompt = self._coming.pop(0)
            self.start(next((entry for entry in self.entries if entry.key == prompt.name), None), prompt)

    def resolve(self, request: PromptRequest, seen: Box | None) -> tuple[TrackedObject | None, Prompt]:
        """The object a request is about, None for a new one, and what to ask for; nothing is changed yet.

        `seen` is where the object was on the frame of the request. Points hold for the frame they were set
        on: those of an earlier one give way to the box around what was found.

        Raises InputError when there is no such object, there are too many, the name of a new one is taken or
        the request asks for nothing.
        """
        if request.name is None:
            if len(self.entries) >= MAX_OBJECTS:
                raise InputError(f"there are {MAX_OBJECTS} objects already; remove one first")
            if request.new_name is not None:
                self._check_name(request.new_name, self._taken())
            name = request.new_name or self._free_name()
            return None, _prompt(name, request, request.points, request.box_xyxy)
        entry = self.named(request.name)
        points, box = request.points, request.box_xyxy
        if request.number == entry.prompt.from_frame or (seen is None and box is None):
            points, box = (*entry.prompt.points, *points), box or entry.prompt.box_xyxy
        else:
            box = box or seen
        return entry, _prompt(entry.key, request, points, box)

    def start(self, entry: TrackedObject | None, prompt: Prompt) -> TrackedObject:
        """Start a new object, or start one again with another prompt."""
        if entry is None:
            return self.add(prompt.name, prompt)
        entry.start_again(prompt, self._make)
        self.changes += 1
        return entry

    def add(self, name: str, prompt: Prompt) -> TrackedObject:
        entry = TrackedObject(prompt.name, name, self._free_colour(), prompt, self._make(prompt))
        self.promised.discard(prompt.name)
        self.entries.append(entry)
        self.changes += 1
        return entry

    def named(self, name: str) -> TrackedObject:
        """The object of this name; InputError when there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise InputError(f"there is no object {name:.80}")

    def remove(self, name: str) -> TrackedObject:
        entry = self.named(name)
        self.entries.remove(entry)
        self.changes += 1
        return entry

    def rename(self, name: str, new: str) -> None:
        entry = self.named(name)
        self._check_name(new, self._taken(besides=entry))
        entry.name = new
        self.changes += 1

    def promise(self, name: str, instead: str | None = None) -> None:
        """Keep a name for an object that waits for its frame, in place of the one it was promised before.

        Raises InputError when it is taken, empty or too long.
        """
        if name != instead:
            self._check_name(name, self._taken())
        self.promised = (self.promised - {instead}) | {name}

    def _check_name(self, name: str, taken: set[str]) -> None:
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise InputError(f"an object's name is 1 to {MAX_NAME} printable characters")
        if name in taken:
            raise InputError(f"another object is named {name}; give each its own name")

    def last_seen(self) -> Prompts:
        """The objects as a later run should look for them: by the box where each was seen last, if it was.

        `asked` is what was asked for. What has not started yet starts from its frame on.
        """
        return Prompts((*map(_last_seen, self.entries), *self._still_coming()))

    def as_asked(self) -> Prompts:
        """The objects as they were asked for last, each from its frame on."""
        started = (
            replace(entry.prompt.asked or entry.prompt, name=entry.name, asked=None) for entry in self.entries
        )
        return Prompts((*started, *self._still_coming()))

    def _still_coming(self) -> Iterator[Prompt]:
        """What has not started yet, or is to start again, by the names of now."""
        names = {entry.key: entry.name for entry in self.entries}
        for prompt in self._coming:
            yield replace(prompt, name=names.get(prompt.name, prompt.name), asked=None)

    def _taken(self, besides: TrackedObject | None = None) -> set[str]:
        """Names that no other object than `besides` may get."""
        own = {besides.key} if besides else set()
        coming = {prompt.name for prompt in self._coming}
        others = {name for entry in self.entries if entry is not besides for name in (entry.key, entry.name)}
        return others | self.promised | (coming - own)

    def _free_name(self) -> str:
        """A number that no object has, had, or will get."""
        taken = self._taken()
        return next(name for name in map(str, self._numbers) if name not in taken)

    def _free_colour(self) -> int:
        used = {entry.colour for entry in self.entries}
        return next(number for number in count() if number not in used)


def _last_seen(entry: TrackedObject) -> Prompt:
    asked = replace(entry.prompt.asked or entry.prompt, name=entry.name, from_frame=0)
    if entry.box is not None:
        return Prompt(entry.name, entry.box, asked=asked)
    return replace(entry.prompt, name=entry.name, from_frame=0, asked=asked)


def extended(prompt: Prompt, request: PromptRequest) -> Prompt:
    """A prompt with what a request adds, while its object waits for its frame."""
    box = request.box_xyxy or prompt.box_xyxy
    return _prompt(prompt.name, request, (*prompt.points, *request.points), box)


def _prompt(
    name: str, request: PromptRequest, points: tuple[tuple[float, float, int], ...], box: Box | None
) -> Prompt:
    return Prompt(name, box, tuple(points), request.number)
