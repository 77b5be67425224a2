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
# Of a prompt, and the time of its frame in a file that viewers go through: the number of that frame.
FromFrame: TypeAlias = Callable[[Prompt, "float | None"], int]
MakeTrack: TypeAlias = Callable[[Prompt], FixedPrompt]

MAX_OBJECTS = 50
MAX_NAME = 40
SAME_PLACE_S = 1e-3  # frames of a file that are closer are the same one


@dataclass(eq=False)
class TrackedObject:
    """One object. `prompt` is what was asked for, in pixels of its frame `prompt.from_frame`.

    `found` is its mask on the newest frame it was looked for on, None while it is lost; `box` is where it was
    seen last, None until it was. Inside masks and tracks it goes by `key`; `name` is what people call it.
    `place_s` is the time of the prompt's frame in a file that viewers go through, else None.
    """

    key: str
    name: str
    colour: int
    prompt: Prompt
    track: FixedPrompt
    found: ObjectMask | None = None
    box: Box | None = None
    place_s: float | None = None

    def start_again(self, prompt: Prompt, make: MakeTrack, place_s: float | None = None) -> None:
        """Look for something else from now on, as the same object."""
        self.prompt, self.track, self.found, self.box = prompt, make(prompt), None, None
        self.place_s = place_s

    def is_at(self, place_s: float | None) -> bool:
        """Whether its prompt was set on the frame at this time of a file."""
        if self.place_s is None or place_s is None:
            return False
        return abs(self.place_s - place_s) < SAME_PLACE_S

    def may_be_on(self, place_s: float | None) -> bool:
        """Whether to look for it on the frame at this time: what is not followed is on its own picture."""
        return self.track.follows or self.place_s is None or place_s is None or self.is_at(place_s)


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

    def expect(self, prompt: Prompt) -> None:
        """Have an object start, or start again, on a frame that is to come."""
        self._coming = sorted([*self._coming, prompt], key=lambda each: each.from_frame)
        self._starts.add(prompt.from_frame)

    def start_due(self, number: int, place_s: float | None = None) -> None:
        """Start the objects that are due on this frame. Those that are not followed are asked for on every
        picture."""
        while self.due(number):
            prompt = self._coming.pop(0)
            known = next((entry for entry in self.entries if entry.key == prompt.name), None)
            entry = self.start(known, prompt)
            entry.place_s = place_s if entry.track.follows else None

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
        return entry, refined(entry, request, seen)

    def start(
        self, entry: TrackedObject | None, prompt: Prompt, place_s: float | None = None
    ) -> TrackedObject:
        """Start a new object, or start one again with another prompt."""
        if entry is None:
            entry = self.add(prompt.name, prompt)
            entry.place_s = place_s
            return entry
        entry.start_again(prompt, self._make, place_s)
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

    def restore(self, entry: TrackedObject, state: TrackedObject, place: int) -> None:
        """Make an object what a copy of it says, but for its name. One that was removed comes to its `place`
        among the others, in another colour where its own is taken. Raises InputError where its name is."""
        if entry not in self.entries:
            self._check_name(entry.name, self._taken(besides=entry))
            if any(other.colour == entry.colour for other in self.entries):
                entry.colour = self._free_colour()
            self.entries.insert(place, entry)
        entry.prompt, entry.track, entry.place_s = state.prompt, state.track, state.place_s
        entry.found, entry.box = state.found, state.box
        self.changes += 1

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

    def as_asked(self, from_frame: FromFrame) -> Prompts:
        """The objects as they were asked for last. `from_frame` says from which frame on another run is to
        look for what has started."""
        started = (
            replace(
                entry.prompt.asked or entry.prompt,
                name=entry.name,
                asked=None,
                from_frame=from_frame(entry.prompt, entry.place_s),
            )
            for entry in self.entries
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


def refined(entry: TrackedObject, request: PromptRequest, seen: Box | None) -> Prompt:
    """What to ask for of an object once a request has added to it; `seen` as in ObjectRegistry.resolve."""
    points, box = request.points, request.box_xyxy
    if request.number == entry.prompt.from_frame or (seen is None and box is None):
        points, box = (*entry.prompt.points, *points), box or entry.prompt.box_xyxy
    else:
        box = box or seen
    return _prompt(entry.key, request, points, box)


def fresh(request: PromptRequest) -> Prompt:
    """What a request alone asks for."""
    return _prompt("", request, request.points, request.box_xyxy)


def extended(prompt: Prompt, request: PromptRequest) -> Prompt:
    """A prompt with what a request adds, while its object waits for its frame."""
    box = request.box_xyxy or prompt.box_xyxy
    return _prompt(prompt.name, request, (*prompt.points, *request.points), box)


def _prompt(
    name: str, request: PromptRequest, points: tuple[tuple[float, float, int], ...], box: Box | None
) -> Prompt:
    return Prompt(name, box, tuple(points), request.number)
