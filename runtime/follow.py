"""Finding objects on frames: by the decoder where a frame was computed, else by moving their masks along.

A click is made on a frame that has passed by the time it arrives. So the last frames and their image
embeddings are kept: the object is found on the frame of the click, then followed to the newest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.canvas import Canvas
from runtime.decode import ObjectMask, decode
from runtime.flow import Flow
from runtime.live import Request
from runtime.objects import Box, Entry, Objects, more_asked
from runtime.prompts import Prompt
from runtime.tracking import TrackState, unit_features
from stages.engine import EngineThread
from stages.errors import InputError
from stages.tensors import Array

_MAX_WAITING = 16
RECENT_FRAMES = 16  # kept for late clicks; with vit_* each takes 8 MB


@dataclass
class Kept:
    """A recent frame. `image_embedding` is None if it was not computed; `boxes` are objects found on it, by
    key."""

    number: int
    canvas: Canvas
    image_embedding: Array | None = None
    boxes: dict[str, Box] = field(default_factory=dict)


@dataclass(frozen=True)
class Followed:
    """One object on one frame; `found` is None while it is lost."""

    name: str
    colour: int
    state: TrackState
    found: ObjectMask | None


@dataclass
class _Waiting:
    """An object whose frame has to be computed first."""

    entry: Entry | None
    prompt: Prompt
    kept: Kept
    under_way: bool = False


class Follower:
    """Finds all objects on one frame after another, and new ones on frames that have passed."""

    def __init__(self, engines: EngineThread, objects: Objects, recent: int = RECENT_FRAMES) -> None:
        self.objects = objects
        self._engines = engines
        self._recent: deque[Kept] = deque(maxlen=recent)
        self._waiting: list[_Waiting] = []
        self._flow = Flow()
        self._fresh = False  # the last frame does not show every object
        self._lock = anyio.Lock()  # frames and late clicks take turns

    def wanted(self, number: int) -> bool:
        """Whether there is anything to find on this frame."""
        return bool(self.objects.entries or self._waiting) or self.objects.due(number)

    def must_compute(self, number: int) -> bool:
        """Whether masks cannot be carried to this frame, since there is an object to be found first.

        Where no viewer steps in this depends on the number alone, whatever is under way.
        """
        return self._fresh or self.objects.planned(number)

    def compute_next(self) -> None:
        """Have the next frame computed, after one that was to be and was not."""
        self._fresh = True

    def keep(self, kept: Kept) -> None:
        """A frame that is shown as it is; a click on it may still come."""
        self._recent.append(kept)

    async def compute(self, kept: Kept) -> list[Followed]:
        """Find all objects on a frame whose image embedding is known."""
        async with self._lock:
            self.objects.start_due(kept.number)
            self._fresh = False
            followed = await self._find(kept, list(self.objects.entries))
            self._flow.start(kept.canvas)
            self._recent.append(kept)
            return followed

    async def carry(self, kept: Kept) -> list[Followed]:
        """Move the masks of all objects from the frame before to this one."""
        async with self._lock:
            entries = list(self.objects.entries)
            moved = await to_thread.run_sync(
                self._flow.move,
                kept.canvas,
                [entry.found.logits if entry.found else None for entry in entries],
            )
            followed = [_carry(entry, logits, kept) for entry, logits in zip(entries, moved, strict=True)]
            self._recent.append(kept)
            return followed

    async def ask(self, request: Request) -> str:
        """Start or change an object from the frame of the request on; its name.

        Where that frame has not been computed the object waits until `compute_waiting`. Raises InputError for
        a request that cannot be right.
        """
        async with self._lock:
            if waiting := self._waiting_named(request.name):
                waiting.prompt = more_asked(waiting.prompt, request)
                return waiting.prompt.name
            kept = self._nearest(request.number)
            entry, prompt = self._asked(request, kept)
            if kept is None:
                return self._take_up(entry, prompt).name
            if kept.image_embedding is None:
                self._waiting.append(_Waiting(entry, prompt, kept))
                return entry.name if entry else prompt.name
            taken = self._take_up(entry, prompt)
            await self._catch_up(taken, kept)
            return taken.name

    def remove(self, name: str) -> None:
        """Forget an object; InputError when there is none of this name."""
        if waiting := self._waiting_named(name):
            self._waiting.remove(waiting)
        else:
            self.objects.remove(name)

    def next_waiting(self) -> Kept | None:
        """A frame that has to be computed for a click on it, given out once."""
        for waiting in self._waiting:
            if not waiting.under_way:
                for same in self._waiting:
                    same.under_way |= same.kept is waiting.kept
                return waiting.kept
        return None

    def put_back(self, kept: Kept) -> None:
        """The frame could not be computed yet; `next_waiting` is to give it out again."""
        for waiting in self._waiting:
            if waiting.kept is kept:
                waiting.under_way = False

    async def compute_waiting(self, kept: Kept) -> None:
        """Start the objects that waited for this frame; without its embedding, from the next frame on."""
        async with self._lock:
            ready = [waiting for waiting in self._waiting if waiting.kept is kept]
            self._waiting = [waiting for waiting in self._waiting if waiting.kept is not kept]
            for waiting in ready:
                entry = self._take_up(waiting.entry, waiting.prompt)
                if kept.image_embedding is not None:
                    await self._catch_up(entry, kept)

    def _asked(self, request: Request, kept: Kept | None) -> tuple[Entry | None, Prompt]:
        if len(self._waiting) >= _MAX_WAITING:
            raise InputError("too many objects wait for their first frame; go on sending, or wait a moment")
        named = self.objects.named(request.name) if request.name is not None else None
        seen = kept.boxes.get(named.key) if kept and named else None
        entry, prompt = self.objects.asked(request, seen)
        if self._recent:
            canvas = (kept or self._recent[-1]).canvas
            prompt.check_inside(canvas.height, canvas.width)
        return entry, prompt

    def _take_up(self, entry: Entry | None, prompt: Prompt) -> Entry:
        self._fresh = True
        return self.objects.take_up(entry, prompt)

    def _waiting_named(self, name: str | None) -> _Waiting | None:
        """A new object of this name that waits for its frame."""
        for waiting in self._waiting:
            if waiting.entry is None and waiting.prompt.name == name:
                return waiting
        return None

    def _nearest(self, number: int) -> Kept | None:
        """The frame of this number; the oldest that is kept for an older one; None for one yet to come."""
        for kept in self._recent:
            if kept.number >= number:
                return kept
        return None

    async def _catch_up(self, entry: Entry, start: Kept) -> None:
        await self._find(start, [entry])
        for kept in list(self._recent):
            if kept.number > start.number and kept.image_embedding is not None:
                await self._find(kept, [entry])

    async def _find(self, kept: Kept, entries: Sequence[Entry]) -> list[Followed]:
        if kept.image_embedding is None:
            raise RuntimeError(f"frame {kept.number} has no image embedding yet")
        asked = await to_thread.run_sync(_questions, entries, kept.canvas, kept.image_embedding)
        choose = {entry.key: entry.track.choose for entry in entries}
        found = await decode(self._engines, kept.image_embedding, kept.canvas, asked, choose)
        answers = {each.prompt.name: each for each in found}
        return await to_thread.run_sync(_update, entries, answers, kept)


def _questions(entries: Sequence[Entry], canvas: Canvas, image_embedding: Array) -> list[Prompt]:
    """What to ask the decoder: one prompt for each object that is not lost already."""
    features = unit_features(image_embedding)
    questions = [entry.track.question(canvas, features) for entry in entries]
    return [prompt for prompt in questions if prompt is not None]


def _update(entries: Sequence[Entry], answers: Mapping[str, ObjectMask], kept: Kept) -> list[Followed]:
    """Tell each track what was found, and note where."""
    followed = []
    for entry in entries:
        tracked = entry.track.update(kept.canvas, answers.get(entry.key))
        followed.append(_note(entry, tracked.state, tracked.found, kept))
    return followed


def _carry(entry: Entry, logits: npt.NDArray[np.float32] | None, kept: Kept) -> Followed:
    if entry.found is None or logits is None:
        return Followed(entry.name, entry.colour, TrackState.LOST, None)
    carried = ObjectMask(entry.found.prompt, logits, entry.found.iou)
    return _note(entry, TrackState.CARRIED, carried, kept)


def _note(entry: Entry, state: TrackState, found: ObjectMask | None, kept: Kept) -> Followed:
    entry.found = found
    box = box_of(found.logits, kept.canvas) if found is not None else None
    if box is not None:
        entry.box = kept.boxes[entry.key] = box
    return Followed(entry.name, entry.colour, state, found)


def box_of(logits: npt.NDArray[np.float32], canvas: Canvas) -> Box | None:
    """The box around a low-resolution mask [M, M] in frame pixels, None when it is empty on the frame.

    Exact to one pixel of the low-resolution mask.
    """
    cells_px = canvas.geometry.image_size / len(logits)
    rows, cols = int(np.ceil(canvas.rows / cells_px)), int(np.ceil(canvas.cols / cells_px))
    ys, xs = np.nonzero(logits[:rows, :cols] > 0)
    if not len(ys):
        return None
    to_x, to_y = cells_px * canvas.width / canvas.cols, cells_px * canvas.height / canvas.rows
    right, bottom = min((xs.max() + 1) * to_x, canvas.width), min((ys.max() + 1) * to_y, canvas.height)
    return float(xs.min() * to_x), float(ys.min() * to_y), float(right), float(bottom)
