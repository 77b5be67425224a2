"""Finding objects on frames: by the decoder where a frame was computed, else by moving their masks along.

A click is made on a frame that has passed by the time it arrives. So the last frames and their image
embeddings are kept: the object is found on the frame of the click, then followed to the newest one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.frames.canvas import Canvas
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.history import History, Step
from runtime.objects.matching import Floats, FrameTokens, MemoryFrame, unit_features
from runtime.objects.optical_flow import Flow
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.registry import Box, FromFrame, ObjectRegistry, TrackedObject, extended, fresh, refined
from runtime.objects.tracking import TrackState
from runtime.objects.trust import UNJUDGED, Trust
from stages.engines.thread import EngineThread
from stages.errors import InputError
from stages.tensors import Array

T = TypeVar("T")

_MAX_WAITING = 16
RECENT_FRAMES = 16  # kept for late clicks; with vit_* each takes 8 MB
NEWEST_AFTER_A_GAP = 2  # frames on which an object of a frame long gone is looked for at once
_LAST = 1 << 62  # in the order of the engines' thread: after all frames


@dataclass(eq=False)
class RecentFrame:
    """A frame on the edge. `image_embedding` is None if it was not computed; `boxes` and `found` are objects
    on it, by key, and `labels` how much of each token their masks cover, [G, G], where they are followed.
    `place_s` is its time in a file that viewers go through, else None."""

    number: int
    canvas: Canvas
    image_embedding: Array | None = None
    boxes: dict[str, Box] = field(default_factory=dict)
    found: dict[str, FollowedObject] = field(default_factory=dict)
    labels: dict[str, Floats] = field(default_factory=dict)
    place_s: float | None = None


@dataclass(frozen=True)
class FollowedObject:
    """One object on one frame, at the decoder's resolution; `found` is None while it is lost. A carried mask
    has the trust of the one it comes from."""

    name: str
    colour: int
    state: TrackState
    found: ObjectMask | None
    trust: Trust = UNJUDGED


@dataclass
class _Waiting:
    """An object whose frame has to be computed first; `entry` None starts a new one."""

    entry: TrackedObject | None
    prompt: Prompt
    frame: RecentFrame
    under_way: bool = False


class Follower:
    """Finds all objects on one frame after another, and new ones on frames that have passed."""

    def __init__(self, engines: EngineThread, objects: ObjectRegistry, recent: int = RECENT_FRAMES) -> None:
        self.objects = objects
        self._engines = engines
        self._recent: deque[RecentFrame] = deque(maxlen=recent)
        self._held: list[RecentFrame] = []  # that viewers look at while others come
        self._wanted: list[RecentFrame] = []  # to be computed though nothing is asked on them
        self._waiting: list[_Waiting] = []
        self.history = History(objects)
        self._flow = Flow()
        self._keyframe_forced = False  # the last frame does not show every object
        self._lock = anyio.Lock()  # frames and late clicks take turns
        self.masks_on: Canvas | None = None  # the newest on which objects were looked for
        self.tracking_s = 0.0  # so far, of all objects

    @property
    def decoder_s(self) -> float:
        """Seconds that the decoder has taken so far."""
        return self._engines.total_s("decoder")

    def has_objects(self, number: int, place_s: float | None = None) -> bool:
        """Whether there is anything to find on this frame."""
        there = any(entry.may_be_on(place_s) for entry in self.objects.entries)
        coming = any(place_s in (None, waiting.frame.place_s) for waiting in self._waiting)
        return there or coming or self.objects.due(number)

    def unseen(self, number: int) -> bool:
        """Whether an object is asked for on this frame or before it of which no mask is known yet."""
        due = bool(self._waiting) or self.objects.due(number)
        return due or any(entry.box is None for entry in self.objects.entries)

    def needs_keyframe(self, number: int) -> bool:
        """Whether masks cannot be carried to this frame, since there is an object to be found first.

        Where no viewer steps in this depends on the number alone, whatever is under way.
        """
        return self._keyframe_forced or self.objects.starts_on(number)

    def force_keyframe(self) -> None:
        """Have the next frame computed, after one that was to be and was not."""
        self._keyframe_forced = True

    def keep(self, frame: RecentFrame) -> None:
        """A frame that is not segmented; a click on it may still come."""
        self._recent.append(frame)

    async def compute(self, frame: RecentFrame) -> list[FollowedObject]:
        """Find all objects on a frame whose image embedding is known."""
        async with self._lock:
            self.objects.start_due(frame.number, frame.place_s)
            self._keyframe_forced = False
            entries = [entry for entry in self.objects.entries if entry.may_be_on(frame.place_s)]
            for entry in entries:
                self._start_at_its_place(entry, frame)
            followed = await self._find(frame, entries)
            self._flow.start(frame.canvas)
            self._append(frame)
            return followed

    async def carry(self, frame: RecentFrame) -> list[FollowedObject]:
        """Move the masks of all objects from the frame before to this one."""
        async with self._lock:
            entries = list(self.objects.entries)
            logits = [entry.found.logits if entry.found else None for entry in entries]
            moved = await self._track(self._flow.move, frame.canvas, logits)
            followed = await self._track(_carry, entries, moved, frame)
            self._append(frame)
            return followed

    def _append(self, frame: RecentFrame) -> None:
        self._recent.append(frame)
        self.masks_on = frame.canvas

    async def prompt(self, request: PromptRequest) -> str:
        """Start or change an object from the frame of the request on; its name.

        Where that frame has not been computed the object waits until `compute_waiting`. Raises InputError for
        a request that cannot be right.
        """
        async with self._lock:
            if waiting := self._waiting_named(request.name):
                waiting.prompt = extended(waiting.prompt, request)
                return waiting.prompt.name
            frame = self._nearest(request.number)
            entry, prompt = self._resolve(request, frame)
            if frame is not None and frame.image_embedding is None:
                return self._wait(entry, prompt, frame)
            started = self._start(entry, prompt, frame)
            if frame is not None:
                await self._catch_up(started, frame)
            return started.name

    async def would_find(self, request: PromptRequest) -> tuple[ObjectMask, Canvas] | None:
        """The mask that `prompt` would give on the frame of the request, which changes nothing. None where
        that frame is not kept or not computed. Raises InputError as `prompt` does."""
        entry = None if request.name is None else self.objects.named(request.name)
        frame = self._nearest(request.number)
        if frame is None or frame.image_embedding is None:
            return None
        prompt = fresh(request) if entry is None else refined(entry, request, frame.boxes.get(entry.key))
        prompt.check_inside(frame.canvas.height, frame.canvas.width)
        (found,) = await decode(self._engines, frame.image_embedding, frame.canvas, [prompt], order=_LAST)
        return found, frame.canvas

    def as_asked(self, from_frame: FromFrame) -> Prompts:
        """All objects as they were asked for last, those included that wait for their frame; see
        ObjectRegistry.as_asked."""
        new = (
            replace(each.prompt, from_frame=from_frame(each.prompt, each.frame.place_s))
            for each in self._waiting
            if each.entry is None
        )
        return Prompts((*self.objects.as_asked(from_frame).entries, *new))

    async def confirm(self, name: str, number: int) -> None:
        """The object's mask on a frame is right: follow it from there, as if it had been asked for so.

        Of a frame whose masks were carried counts the computed one before. Raises InputError for an object
        that there is not, and for a frame that is not kept or on which it was not found.
        """
        async with self._lock:
            if self._waiting_named(name):
                raise InputError(f"object {name} was not found on any frame yet; wait a moment")
            entry = self.objects.named(name)
            frame = self._found_on(entry, number)
            labels = frame.labels.get(entry.key)
            features = unit_features(_embedding(frame))
            entry.track.anchor(MemoryFrame(features, labels) if labels is not None else None)
            frame.found[entry.key] = replace(frame.found[entry.key], trust=entry.track.trust)
            await self._follow_from(entry, frame)

    async def choose(self, name: str, mask: int) -> None:
        """Take another of the masks that an object's only point may mean, from that point's frame on.

        Raises InputError where there is no such object, it has more than one point, or its frame is gone.
        """
        async with self._lock:
            entry = self.objects.named(name)
            prompt = replace(entry.prompt, mask=mask)
            frame = self._nearest(prompt.from_frame)
            if frame is None or frame.number != prompt.from_frame or frame.image_embedding is None:
                raise InputError(f"the frame on which {name} was pointed at is gone; point at it again")
            self._start(entry, prompt, frame)
            await self._catch_up(entry, frame)

    def undo(self) -> str:
        """Take the newest change of objects by a prompt or a removal back; the name of its object.

        Raises InputError where there is none, or the name is taken by another object meanwhile.
        """
        return self._changed(self.history.undo())

    def redo(self) -> str:
        """Make the change that was taken back last again. Raises InputError as `undo` does."""
        return self._changed(self.history.redo())

    def _changed(self, step: Step) -> str:
        self._keyframe_forced = True
        return step.entry.name

    def hold(self, frame: RecentFrame) -> None:
        """Keep a frame, for prompts on it, until it is let go."""
        self._held.append(frame)

    def let_go(self, frame: RecentFrame) -> None:
        """Keep a frame no longer that was held; once nobody holds it, it is not computed for that either."""
        self._held.remove(frame)
        if frame not in self._held and frame in self._wanted:
            self._wanted.remove(frame)

    def want(self, frame: RecentFrame) -> None:
        """Have the image embedding of a frame computed, for what may be asked on it, once."""
        if frame not in self._wanted:
            self._wanted.append(frame)

    def on(self, frame: RecentFrame) -> list[FollowedObject]:
        """The objects on a frame as they are known now, with names of today. What has not changed since the
        last call is the same object."""
        entries = [entry for entry in self.objects.entries if entry.key in frame.found]
        for entry in entries:
            found = frame.found[entry.key]
            if (found.name, found.colour) != (entry.name, entry.colour):
                frame.found[entry.key] = replace(found, name=entry.name, colour=entry.colour)
        return [frame.found[entry.key] for entry in entries]

    def remove(self, name: str) -> None:
        """Forget an object; InputError when there is none of this name."""
        if waiting := self._waiting_named(name):
            self._waiting.remove(waiting)
            self.objects.promised.discard(name)
        else:
            removed = self.objects.named(name)
            self.history.note(Step.of(removed, self.objects, {}))
            self.objects.remove(name)
            self._waiting = [waiting for waiting in self._waiting if waiting.entry is not removed]

    def rename(self, name: str, new: str) -> None:
        """Give an object another name; InputError when there is none of this name, or `new` cannot be."""
        if waiting := self._waiting_named(name):
            self.objects.promise(new, instead=name)
            waiting.prompt = replace(waiting.prompt, name=new)
        else:
            self.objects.rename(name, new)

    def next_waiting(self) -> RecentFrame | None:
        """A frame that has to be computed for a click on it, or since it is wanted, given out once."""
        if self._wanted:
            return self._wanted.pop(0)
        for waiting in self._waiting:
            if not waiting.under_way:
                for same in self._waiting:
                    same.under_way |= same.frame is waiting.frame
                return waiting.frame
        return None

    def put_back(self, frame: RecentFrame) -> None:
        """The frame could not be computed yet; `next_waiting` is to give it out again if it is clicked on."""
        for waiting in self._waiting:
            if waiting.frame is frame:
                waiting.under_way = False

    async def compute_waiting(self, frame: RecentFrame) -> None:
        """Start the objects that waited for this frame; without its embedding, from the next frame on."""
        async with self._lock:
            ready = [waiting for waiting in self._waiting if waiting.frame is frame]
            self._waiting = [waiting for waiting in self._waiting if waiting.frame is not frame]
            started = [self._start(waiting.entry, waiting.prompt, frame) for waiting in ready]
            if frame.image_embedding is not None:
                for entry in started:
                    await self._catch_up(entry, frame)

    def _resolve(
        self, request: PromptRequest, frame: RecentFrame | None
    ) -> tuple[TrackedObject | None, Prompt]:
        if len(self._waiting) >= _MAX_WAITING:
            raise InputError("too many objects wait for their first frame; go on sending, or wait a moment")
        named = self.objects.named(request.name) if request.name is not None else None
        seen = frame.boxes.get(named.key) if frame and named else None
        entry, prompt = self.objects.resolve(request, seen)
        if self._recent:
            canvas = (frame or self._recent[-1]).canvas
            prompt.check_inside(canvas.height, canvas.width)
        return entry, prompt

    def _start(self, entry: TrackedObject | None, prompt: Prompt, frame: RecentFrame | None) -> TrackedObject:
        """Start an object as somebody asks, on this frame."""
        self._keyframe_forced = True
        place_s = frame.place_s if frame else None
        on_frame = frame.found if frame else {}
        before = Step.of(entry, self.objects, on_frame) if entry else None
        started = self.objects.start(entry, prompt, place_s)
        self.history.note(before or Step(started, None, on_frame))
        return started

    def _start_at_its_place(self, entry: TrackedObject, frame: RecentFrame) -> None:
        """Ask anew for an object on a frame that viewers went back to, as it was asked for there."""
        if entry.is_at(frame.place_s) and entry.prompt.from_frame != frame.number:
            self.objects.start(entry, replace(entry.prompt, from_frame=frame.number), frame.place_s)

    def _wait(self, entry: TrackedObject | None, prompt: Prompt, frame: RecentFrame) -> str:
        self._waiting.append(_Waiting(entry, prompt, frame))
        if entry is not None:
            return entry.name
        self.objects.promised.add(prompt.name)
        return prompt.name

    def _waiting_named(self, name: str | None) -> _Waiting | None:
        """A new object of this name that waits for its frame."""
        for waiting in self._waiting:
            if waiting.entry is None and waiting.prompt.name == name:
                return waiting
        return None

    def _nearest(self, number: int) -> RecentFrame | None:
        """The frame of this number; the oldest that is kept for an older one; None for one yet to come."""
        for frame in self._held:
            if frame.number == number:
                return frame
        for frame in self._recent:
            if frame.number >= number:
                return frame
        return None

    def _found_on(self, entry: TrackedObject, number: int) -> RecentFrame:
        """The newest computed frame up to this number on which an object was found as it is asked for now."""
        held = [frame for frame in self._held if frame.number == number]
        for frame in (*held, *reversed(self._recent)):
            computed = frame.image_embedding is not None and entry.key in frame.boxes
            if computed and entry.prompt.from_frame <= frame.number <= number:
                return frame
        raise InputError(
            f"object {entry.name} was not found on frame {number}, or that is no longer kept; confirm it on "
            f"one of the newest {self._recent.maxlen} frames"
        )

    async def _catch_up(self, entry: TrackedObject, start: RecentFrame) -> None:
        """Find an object on `start`, then follow it to the newest frame.

        From a frame that was held for so long that those after it are gone, the newest ones alone are looked
        at: what moved meanwhile is found there or not.
        """
        await self._find(start, [entry])
        await self._follow_from(entry, start)

    async def _follow_from(self, entry: TrackedObject, start: RecentFrame) -> None:
        """Follow an object that is known on `start` to the newest frame; see _catch_up."""
        later = [
            frame
            for frame in self._recent
            if frame.number > start.number and frame.image_embedding is not None
        ]
        for frame in later if start in self._recent else later[-NEWEST_AFTER_A_GAP:]:
            if entry.may_be_on(frame.place_s):
                await self._find(frame, [entry])

    async def _find(self, frame: RecentFrame, entries: Sequence[TrackedObject]) -> list[FollowedObject]:
        embedding = _embedding(frame)
        prompts = await self._track(_next_prompts, entries, frame.canvas, embedding)
        choose = {entry.key: entry.track.choose for entry in entries}
        found = await decode(self._engines, embedding, frame.canvas, prompts, choose, frame.number)
        masks = {each.prompt.name: each for each in found}
        return await self._track(_update, entries, masks, frame)

    async def _track(self, function: Callable[..., T], *args: object) -> T:
        """A part of following objects, in a thread."""

        def timed() -> tuple[T, float]:
            started_s = time.perf_counter()
            return function(*args), time.perf_counter() - started_s

        result, seconds = await to_thread.run_sync(timed)
        self.tracking_s += seconds
        return result


def _embedding(frame: RecentFrame) -> Array:
    if frame.image_embedding is None:
        raise RuntimeError(f"frame {frame.number} has no image embedding yet")
    return frame.image_embedding


def _next_prompts(entries: Sequence[TrackedObject], canvas: Canvas, image_embedding: Array) -> list[Prompt]:
    """The prompts for the decoder: one for each object that is not lost already."""
    tokens = FrameTokens(image_embedding)
    prompts = [entry.track.next_prompt(canvas, tokens) for entry in entries]
    return [prompt for prompt in prompts if prompt is not None]


def _update(
    entries: Sequence[TrackedObject], masks: Mapping[str, ObjectMask], frame: RecentFrame
) -> list[FollowedObject]:
    """Tell each track what was found, and note where."""
    return [_update_one(entry, masks.get(entry.key), frame) for entry in entries]


def _update_one(entry: TrackedObject, mask: ObjectMask | None, frame: RecentFrame) -> FollowedObject:
    found = entry.track.update(frame.canvas, mask)
    if found is not None and entry.track.labels is not None:
        frame.labels[entry.key] = entry.track.labels
    return _note(entry, TrackState.TRACKED, found, frame)


def _carry(
    entries: Sequence[TrackedObject], moved: Sequence[npt.NDArray[np.float32] | None], frame: RecentFrame
) -> list[FollowedObject]:
    """What of each object's moved logits [M, M] is seen on the frame."""
    return [_carry_one(entry, logits, frame) for entry, logits in zip(entries, moved, strict=True)]


def _carry_one(
    entry: TrackedObject, logits: npt.NDArray[np.float32] | None, frame: RecentFrame
) -> FollowedObject:
    carried = None
    if entry.found is not None and logits is not None and frame.canvas.shows(logits):
        carried = ObjectMask(entry.found.prompt, logits, entry.found.iou)
    return _note(entry, TrackState.CARRIED, carried, frame)


def _note(
    entry: TrackedObject, state: TrackState, found: ObjectMask | None, frame: RecentFrame
) -> FollowedObject:
    """The object on this frame, in `state` if it was found there."""
    entry.found = found
    lost = FollowedObject(entry.name, entry.colour, TrackState.LOST, None)
    noted = replace(lost, state=state, found=found, trust=entry.track.trust) if found else lost
    frame.found[entry.key] = noted
    if found is not None and (box := box_of(found.logits, frame.canvas)) is not None:
        entry.box = frame.boxes[entry.key] = box
    return noted


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
