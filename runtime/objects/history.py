"""Undo and redo: what prompts and removals made of objects, one step at a time."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass
from typing import Any

from runtime.objects.registry import ObjectRegistry, TrackedObject
from stages.errors import InputError

STEPS = 20  # kept; each holds an object's memory of a few frames


@dataclass
class Step:
    """The other side of a change: what `entry` was before it or, once that is taken back, after it.

    `state` None: it was not among the objects. `on_frame` is what was found on the frame of the change, by
    the objects' keys, and `found` what it was of this object.
    """

    entry: TrackedObject
    state: TrackedObject | None
    on_frame: dict[str, Any]
    found: Any = None
    place: int = 0  # among the objects

    @classmethod
    def of(cls, entry: TrackedObject, objects: ObjectRegistry, on_frame: dict[str, Any]) -> Step:
        """The object as it is now."""
        if entry not in objects.entries:
            return cls(entry, None, on_frame, on_frame.get(entry.key))
        place = objects.entries.index(entry)
        return cls(entry, copy(entry), on_frame, on_frame.get(entry.key), place)

    def restore(self, objects: ObjectRegistry) -> None:
        """Make the object what it was. Raises InputError where another one has its name by now."""
        if self.state is None:
            objects.remove(self.entry.name)
        else:
            objects.restore(self.entry, self.state, self.place)
        self.on_frame.pop(self.entry.key, None)
        if self.found is not None:
            self.on_frame[self.entry.key] = self.found


class History:
    """The newest changes of a run's objects, for all viewers together."""

    def __init__(self, objects: ObjectRegistry) -> None:
        self._objects = objects
        self._done: deque[Step] = deque(maxlen=STEPS)
        self._undone: deque[Step] = deque(maxlen=STEPS)

    @property
    def undoable(self) -> bool:
        return bool(self._done)

    @property
    def redoable(self) -> bool:
        return bool(self._undone)

    def note(self, step: Step) -> None:
        """A change has been made; `step` is what was before it."""
        self._done.append(step)
        self._undone.clear()

    def undo(self) -> Step:
        """Take the newest change back. Raises InputError where there is none, or it cannot be."""
        return self._swap(self._done, self._undone, "undo")

    def redo(self) -> Step:
        """Make the change again that was taken back last. Raises InputError as `undo` does."""
        return self._swap(self._undone, self._done, "redo")

    def _swap(self, here: deque[Step], there: deque[Step], what: str) -> Step:
        if not here:
            raise InputError(f"there is nothing to {what}")
        step = here[-1]
        other = Step.of(step.entry, self._objects, step.on_frame)
        step.restore(self._objects)
        here.pop()
        there.append(other)
        return step
