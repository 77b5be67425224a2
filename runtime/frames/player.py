"""A file as a viewer of the page goes through it: it waits, plays, steps, and goes to any place.

Nothing is read before somebody watches, and a video stands still while nobody does. Every frame is taken,
at the file's own speed or slower, where the engines are slower: none is left out. After the last frame the
first one follows. Frames are numbered as they are shown, so that each number is one look at a frame; where
in the file it lies is its `time_s`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count

from runtime.frames.reels import Reel, reel_of
from runtime.frames.sources import NOTHING, Frame, Source
from stages.errors import InputError

MAX_TAKES = 30  # steps that wait; more are left out

_Take = Callable[[Reel], Frame | None]


@dataclass(frozen=True)
class Playback:
    """Where a player is: `time_s` of the frame that was taken last, of about `end_s`; frames lie `step_s`
    apart. `pictures` stand each for itself: they can be stepped through, and there is nothing to play."""

    playing: bool
    time_s: float
    end_s: float
    step_s: float
    pictures: bool


class Player(Source):
    """The frames of a source of files, in the order that viewers ask for. Iterate it once, on one thread; all
    else may be called on any thread, and returns at once."""

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self.kind, self.fps, self.files = source.kind, source.fps, source.files
        self.is_sequence, self.examples = source.is_sequence, source.examples
        self._changed = threading.Condition()
        self._takes: deque[_Take] = deque([_first], maxlen=MAX_TAKES)  # that viewers asked for
        self._playing = False
        self._watched = False
        self._stopped = False
        self._due_s = 0.0  # of the next frame while it plays, on the clock of time.perf_counter
        self._time_s = 0.0
        self._end_s = self._step_s = 0.0

    @property
    def standing(self) -> bool:
        with self._changed:
            return not self._watched or not (self._takes or self._playing)

    @property
    def playback(self) -> Playback:
        """Where it is now; all 0 before somebody watches."""
        with self._changed:
            return Playback(self._playing, self._time_s, self._end_s, self._step_s, not self.is_sequence)

    def sizes(self) -> frozenset[tuple[int, int]]:
        sizes = self._source.sizes()
        self.examples, self.warnings = self._source.examples, self._source.warnings
        return sizes

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def watched(self, watched: bool) -> None:
        """Whether anybody watches from now on."""
        with self._changed:
            self._watched = watched
            self._changed.notify_all()

    def play(self, playing: bool) -> None:
        """Go on by itself, or stand still. Raises InputError for pictures, which are no film."""
        if not self.is_sequence:
            raise InputError("pictures are stepped through one by one: there is no film to play")
        with self._changed:
            self._playing = playing
            self._changed.notify_all()

    def seek(self, time_s: float) -> None:
        """Show the last frame at or before this time, and stand still there unless it plays."""
        with self._changed:
            self._takes.clear()
        self._ask(lambda reel: reel.at(time_s))

    def step(self, frames: int) -> None:
        """Stand still, and show the frame after this one, or with -1 the one before."""
        with self._changed:
            self._playing = False
        self._ask(_preceding if frames < 0 else _following)

    def _ask(self, take: _Take) -> None:
        with self._changed:
            self._takes.append(take)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        numbers = count()
        with closing(reel_of(self._source)) as reel:
            self._end_s, self._step_s = reel.end_s, reel.step_s
            while (take := self._next_take()) is not None:
                frame = self._taken(reel, take)
                with self._changed:
                    self._time_s = frame.time_s
                    self._playing &= frame.error is None
                yield replace(frame, number=next(numbers), captured_s=time.perf_counter())

    def _taken(self, reel: Reel, take: _Take) -> Frame:
        """A frame. After the last one comes the first while it plays, and that one again for who steps. One
        that cannot be read says why."""
        try:
            frame = take(reel)
            if frame is None:
                return replace(reel.at(0.0 if self._playing else self._time_s), jumped=True)
        except InputError as exc:
            return Frame(0, "the place that was asked for", 0.0, NOTHING, str(exc))
        return replace(frame, jumped=take is not _following)

    def _next_take(self) -> _Take | None:
        """What is to be shown next, once it is due; None at the end of the run."""
        with self._changed:
            while not self._stopped:
                now_s = time.perf_counter()
                if self._watched and self._takes:
                    self._due_s = now_s + self._step_s
                    return self._takes.popleft()
                if self._watched and self._playing and now_s >= self._due_s:
                    self._due_s = max(self._due_s + self._step_s, now_s)
                    return _following
                waits = self._watched and self._playing
                self._changed.wait(self._due_s - now_s if waits else None)
        return None


def _first(reel: Reel) -> Frame:
    return reel.at(0.0)


def _following(reel: Reel) -> Frame | None:
    return reel.following()


def _preceding(reel: Reel) -> Frame:
    return reel.preceding()
