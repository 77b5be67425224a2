"""Objects followed through the frames of one film, frame by frame as they are given.

The steps are those of runtime.pipeline: windows, global stage, decoder, following, with the same choice of
frames that the model runs on and of frames to which masks are moved along.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.api.arguments import Asked, check_inside, objects_asked
from runtime.api.core import Core
from runtime.api.embedding import collect
from runtime.api.errors import ArgumentError, FrameLost, SessionClosed
from runtime.api.held_edge import LOG
from runtime.api.masks import box_around
from runtime.edge import Edge
from runtime.encoder import Encoding
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.follower import FollowedObject, Follower, RecentFrame
from runtime.objects.kept_objects import KeptObjects
from runtime.objects.masks import encode_mask
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.tracking import Track, TrackState
from stages.errors import InputError
from stages.tensors import Pixels

ENDED = (
    "this tracker has ended, since its session went on with other frames: what is kept is found frame by "
    "frame, so one film is followed at a time; open another session beside it"
)

BEGIN_ANOTHER = "begin another one with track"


@dataclass(frozen=True, eq=False, repr=False)
class TrackedObject:
    """One object on one frame of H x W pixels.

    `state` is TrackState.TRACKED, CARRIED (its mask was moved along, not computed) or LOST. `mask` is bool
    [H, W], None while it is lost; `score` the IoU that the decoder expects of it, 0 while it is lost.
    `confidence`, 0 to 1, and `check`, why a person should look or None, are those of masks.jsonl.
    """

    name: str
    state: TrackState
    mask: npt.NDArray[np.bool_] | None
    score: float
    confidence: float
    check: str | None

    def __repr__(self) -> str:
        return f"TrackedObject({self.name!r}, {self.state.value}, {self.area} pixels, score={self.score:.2f})"

    @property
    def area(self) -> int:
        """Pixels of the mask, 0 while it is lost."""
        return 0 if self.mask is None else int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom of the mask in pixels, None while it is lost."""
        return None if self.mask is None else box_around(self.mask)

    def rle(self) -> dict[str, Any] | None:
        """The mask in COCO run-length encoding, None while it is lost."""
        return None if self.mask is None else encode_mask(self.mask)


@dataclass(frozen=True, eq=False, repr=False)
class TrackedFrame:
    """One frame with its objects. `number` counts from 0 in each film; `pixels` are RGB uint8 [H, W, 3], the
    caller's own array where that was one.

    `lost` says why there are no masks: the frame could not be read or completed; None of others. `kept` are
    its windows that did not leave; `doubtful` says that a site which was known to lie by then had a part in
    its masks.
    """

    number: int
    pixels: Pixels
    objects: tuple[TrackedObject, ...]
    lost: str | None = None
    doubtful: bool = False
    kept: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        if self.lost is not None:
            return f"TrackedFrame({self.number}, lost={self.lost!r})"
        height, width = self.pixels.shape[:2]
        return f"TrackedFrame({self.number}, {width} x {height}, objects={list(self.objects)})"

    @property
    def masks(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """The mask of each object that is found, by its name."""
        return {each.name: each.mask for each in self.objects if each.mask is not None}


class _Fate(enum.Enum):
    """What becomes of a frame."""

    COMPUTED = enum.auto()
    CARRIED = enum.auto()
    UNSEGMENTED = enum.auto()
    LOST = enum.auto()


@dataclass
class _Job:
    """A frame that was given and has no result yet. `windows` runs where the model runs on it."""

    number: int
    pixels: Pixels
    fate: _Fate
    recent: RecentFrame | None = None
    windows: asyncio.Task[Encoding] | None = None
    reason: str | None = None


class Following:
    """Takes frames with `push`, and gives their results in the same order. Belongs to the session's loop.

    No more than `in_flight` frames are to be pushed whose results were not taken.
    """

    def __init__(self, core: Core, prompts: Prompts, keyframe_every: int, in_flight: int) -> None:
        self.in_flight = in_flight
        self._core = core
        self._keyframe_every = keyframe_every
        self._coming = list(prompts.entries)
        _tell_of_doubts(prompts.entries)
        self._objects = ObjectRegistry(Prompts(()), Track)
        self._objects.promised.update(prompt.name for prompt in prompts.entries)
        self._follower: Follower | None = None
        self._jobs: deque[_Job] = deque()
        self._count = 0  # frames given
        self._newest = 0  # the session's number of the frame whose result was taken last
        self._frames_ended = False
        self._last_unsegmented = True
        self._masks_from: Collection[str] = ()  # sites of the last model run, from which masks are carried
        self._turns = asyncio.Lock()  # results and prompts on the way
        self._why_ended: str | None = None

    @property
    def pending(self) -> int:
        """Frames that were pushed and not taken."""
        return len(self._jobs)

    async def push(self, pixels: Pixels) -> None:
        """Begin with one more frame, RGB uint8 [H, W, 3]. Raises ArgumentError, and the frame counts
        nothing."""
        self._require_going_on()
        height, width = pixels.shape[:2]
        due = sorted(
            (prompt for prompt in self._coming if prompt.from_frame <= self._count),  # a frame may be lost
            key=lambda prompt: prompt.from_frame,
        )
        check_inside(due, height, width)
        edge = await self._core.edge_for(height, width)
        canvas = await to_thread.run_sync(make_canvas, pixels, self._core.geometry)
        self._core.take_turn(self, self._end)
        if self._follower is None:
            self._follower = Follower(edge.engines, self._objects)
        recent = RecentFrame(self._core.next_number(), canvas)
        for prompt in due:
            self._coming.remove(prompt)
            self._objects.expect(replace(prompt, from_frame=recent.number))
        job = _Job(self._count, pixels, self._choose(self._follower, recent.number), recent)
        self._count += 1
        if job.fate is _Fate.COMPUTED:
            job.windows = asyncio.ensure_future(
                self._core.run(collect(edge, canvas, recent.number, KeptObjects(self._follower).on))
            )
            job.windows.add_done_callback(_looked_at)
        self._jobs.append(job)

    def push_lost(self, reason: str) -> None:
        """A frame that could not be read, for this reason."""
        self._jobs.append(_Job(self._count, np.zeros((0, 0, 3), np.uint8), _Fate.LOST, reason=reason))
        self._count += 1

    async def result(self) -> TrackedFrame:
        """Of the oldest frame that is pending."""
        self._require_going_on()
        async with self._turns:
            job = self._jobs.popleft()
            if job.recent is None:
                return TrackedFrame(job.number, job.pixels, (), job.reason)
            return await self._core.run(self._finish(job, job.recent))

    async def prompt(self, name: str | None, box: Any, points: Any, labels: Any) -> str:
        """Ask for an object on the frame whose result was taken last, or before any on the first; its name.

        Raises InputError as AsyncTracker.prompt says.
        """
        self._require_going_on()
        if self._frames_ended and not self._jobs:
            raise SessionClosed(f"this tracker has given its last frame; {BEGIN_ANOTHER}")
        if points is not None:
            points = np.asarray(points, object)
            points = points[None] if points.ndim == 2 else points
            labels = None if labels is None else [labels]
        objects = objects_asked(box, points, labels)
        if len(objects) != 1:
            raise ArgumentError(f"a prompt asks for one object a call, not for {len(objects)}")
        (asked,) = objects
        async with self._turns:
            if self._follower is None:
                return self._prompt_first(name, asked)
            return await self._core.run(self._prompt(self._follower, name, asked))

    def remove(self, name: str) -> None:
        """Follow an object no further. Raises InputError where there is none of this name."""
        self._require_going_on()
        coming = [prompt for prompt in self._coming if prompt.name != name]
        if self._follower is not None and any(entry.name == name for entry in self._objects.entries):
            self._follower.remove(name)
        elif len(coming) == len(self._coming):
            raise ArgumentError(f"there is no object {name:.80}")
        self._coming = coming
        self._objects.promised.discard(name)

    def no_more(self) -> None:
        """No frame follows those that were pushed. What was asked for from a later one is told of."""
        self._frames_ended = True
        for prompt in self._coming:
            if prompt.from_frame >= self._count:
                LOG.warning(
                    "object %s was not asked for from frame %d on: there were %d frames",
                    prompt.name,
                    prompt.from_frame,
                    self._count,
                )

    def close(self) -> None:
        """Drop what is pending; the objects are followed no further."""
        self._why_ended = self._why_ended or f"this tracker is closed; {BEGIN_ANOTHER}"
        for job in self._jobs:
            if job.windows is not None:
                job.windows.cancel()
        self._jobs.clear()

    def _end(self) -> None:
        self._why_ended = ENDED
        self.close()

    def _require_going_on(self) -> None:
        self._core.require_open()
        if self._why_ended is not None:
            raise SessionClosed(self._why_ended)

    def _choose(self, follower: Follower, number: int) -> _Fate:
        """As the pipeline chooses."""
        before_unsegmented = self._last_unsegmented
        self._last_unsegmented = not follower.has_objects(number)
        if self._last_unsegmented:
            return _Fate.UNSEGMENTED
        key = self._count % self._keyframe_every == 0 or follower.needs_keyframe(number)
        return _Fate.COMPUTED if key or before_unsegmented else _Fate.CARRIED

    async def _finish(self, job: _Job, recent: RecentFrame) -> TrackedFrame:
        edge, follower = self._core.edge, self._required_follower
        self._newest = recent.number
        kept: frozenset[int] = frozenset()
        objects: Sequence[FollowedObject] = ()
        if job.fate is _Fate.UNSEGMENTED:
            follower.keep(recent)
        elif job.windows is None:
            edge.encoder.doubts.used(recent.number, self._masks_from)
            objects = await follower.carry(recent)
        else:
            try:
                encoding = await job.windows
            except FrameLost as exc:
                return TrackedFrame(job.number, job.pixels, (), str(exc))
            recent.image_embedding = await encoding.finish()
            self._masks_from, kept = encoding.sites, encoding.kept.windows
            objects = await follower.compute(recent)
        doubtful = edge.encoder.doubts.has(recent.number, self._masks_from if objects else ())
        drawn = await to_thread.run_sync(_drawn, objects, recent.canvas)
        return TrackedFrame(job.number, job.pixels, drawn, None, doubtful, kept)

    def _prompt_first(self, name: str | None, asked: Asked) -> str:
        taken = {each.name for each in self._coming}
        if name is not None and name in taken:
            raise ArgumentError(
                f"object {name:.80} is asked for already; its points come with the first frame"
            )
        free = name or next(text for text in map(str, range(1, len(taken) + 2)) if text not in taken)
        prompt = Prompt(free, *asked)
        _tell_of_doubts([prompt])
        self._coming.append(prompt)
        self._objects.promised.add(free)
        return free

    async def _prompt(self, follower: Follower, name: str | None, asked: Asked) -> str:
        box, points = asked
        known = name is not None and any(entry.name == name for entry in follower.objects.entries)
        request = PromptRequest(self._newest, name if known else None, points, box)
        given = await follower.prompt(request)
        if name is not None and not known:
            try:
                follower.rename(given, name)
            except InputError:
                follower.remove(given)
                raise
        while (waiting := follower.next_waiting()) is not None:
            await self._compute_waiting(self._core.edge, follower, waiting)
        given = name or given
        entries = follower.objects.entries
        _tell_of_doubts(replace(each.prompt, name=given) for each in entries if each.name == given)
        return given

    async def _compute_waiting(self, edge: Edge, follower: Follower, frame: RecentFrame) -> None:
        """A frame on which nothing was asked for before. Where it is lost the object is looked for on the
        next one."""
        try:
            encoding = await collect(edge, frame.canvas, frame.number, KeptObjects(follower).on)
            frame.image_embedding = await encoding.finish()
        except FrameLost:
            pass
        await follower.compute_waiting(frame)

    @property
    def _required_follower(self) -> Follower:
        if self._follower is None:
            raise RuntimeError("a result is asked for before a frame was given")
        return self._follower


def _tell_of_doubts(prompts: Iterable[Prompt]) -> None:
    for doubt in Prompts(tuple(prompts)).doubts():
        LOG.warning(doubt)


def _looked_at(task: asyncio.Task[Encoding]) -> None:
    """Of a frame whose result is never taken, an error is nobody's."""
    if not task.cancelled():
        task.exception()


def _drawn(objects: Sequence[FollowedObject], canvas: Canvas) -> tuple[TrackedObject, ...]:
    """Masks at the frame's size."""
    return tuple(
        TrackedObject(
            name=each.name,
            state=each.state,
            mask=None if each.found is None else canvas.to_frame_mask(each.found.logits),
            score=0.0 if each.found is None else each.found.iou,
            confidence=each.trust.confidence,
            check=None if each.trust.check is None else each.trust.check.value,
        )
        for each in objects
    )
