"""The pipeline of a run: read -> windows -> global -> decode -> write, one task a step.

While the global stage of a frame runs, the windows of the next ones are computed, at most `in_flight` frames
of them, and one more is being read. Frames leave in order. Nothing is read before there is room: a file drops
nothing, and a live source hands on the newest frame there is by then.

A file is to be done soon: the global stage of a frame begins before the masks of the one before are decoded.
A live frame is to be shown soon: its masks come before the next frame's global stage, and no more frames are
ahead of it than keep the engines busy, since any other would only grow old.

Nothing leaves the edge for a frame on which nothing is to be segmented, nor while sending is paused: such a
frame passes through as it is. A frame that has passed so, and is then clicked on, is computed at once,
whether or not the source gives another.

A frame stands still for viewers where the source gives no other until they ask, or where a viewer holds it
while others come. What they change of its objects is shown on it at once: only the decoder runs.
"""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import numpy as np
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runtime.encoder import Encoding, FrameLost, ImageEncoder, SendingPaused
from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.pace import Pace
from runtime.frames.player import Player
from runtime.frames.sources import NOTHING, Frame, Source
from runtime.live.newest import Newest
from runtime.objects.follower import FollowedObject, Follower, RecentFrame
from runtime.objects.prompts import PromptRequest
from runtime.results.measurements import AHEAD, EDGE_WINDOWS, QUEUE, RunMeasurements
from runtime.results.result import Choice, FrameResult, ObjectResult
from runtime.results.sinks import Sink
from runtime.results.trace import NO_TRACE, Trace
from stages.errors import InputError
from stages.geometry import Geometry

_FEWER_MARGIN = 1.1  # one frame less is tried below this times the windows' time for which it is enough
_NEWEST_WEIGHT = 0.2  # of the newest value in a moving average
CHOICE_PX = 1280  # longest side of the masks that a point may mean: they are for a page to choose from
BLANK = np.zeros((360, 640, 3), np.uint8)  # in the place of a picture that cannot be read
TRACED_S = 0.5  # between two values of traffic in the trace, which keeps so many only

T = TypeVar("T")


@dataclass(frozen=True)
class PipelineOptions:
    """How the pipeline runs; see the help of `pedsam run`.

    No frame is read while those under way have more than `full_pixels` together: of very large ones there is
    one at a time, so that they fit into memory.
    """

    in_flight: int = 3
    keyframe_every: int = 1
    max_fps: float | None = None
    max_mbit: float | None = None
    full_pixels: int = 1 << 26


class Fate(enum.Enum):
    """What becomes of a frame in the pipeline."""

    COMPUTED = enum.auto()  # the model runs on it
    CARRIED = enum.auto()  # the masks of the frame before are moved along
    UNSEGMENTED = enum.auto()  # shown as it is: nothing is to be found on it, or sending is paused
    LOST = enum.auto()  # could not be read or completed
    REVISITED = enum.auto()  # was shown already, and is computed for a click on it
    POSTPONED = enum.auto()  # was to be revisited, but sending was paused


_ALREADY_WRITTEN = (Fate.REVISITED, Fate.POSTPONED)
_NEEDS_ENCODING = (Fate.COMPUTED, Fate.REVISITED)


@dataclass
class FrameJob:
    """A frame on its way through the pipeline; each step adds its part. `reason` says why it was lost."""

    frame: Frame
    started_s: float
    fate: Fate
    recent: RecentFrame | None = None
    windows_done: anyio.Event = field(default_factory=anyio.Event)
    encoding: Encoding | None = None  # once all windows have come
    kept: frozenset[int] = frozenset()  # windows of it that do not leave
    sites: Collection[str] = ()  # that computed windows of the model run its masks come from
    objects: list[FollowedObject] = field(default_factory=list)
    changes: int = 0  # of the run's objects when these were found
    queue_s: float = 0.0  # it waited between its steps, for engines and threads
    ready_s: float = 0.0  # when it was ready for its next step
    reason: str = ""


class Pipeline:
    """Runs a source through all steps once. `on_lost` gets each frame that is lost, and why.

    With `computes_unasked` a frame that stands still is computed before anything is asked on it, so that the
    first click, too, needs the decoder alone: for runs of which nothing leaves.
    """

    def __init__(
        self,
        geometry: Geometry,
        encoder: ImageEncoder,
        follower: Follower,
        sinks: Sequence[Sink],
        options: PipelineOptions = PipelineOptions(),
        progress: Callable[[int], None] = lambda frames: None,
        trace: Trace = NO_TRACE,
        on_lost: Callable[[Frame, str], None] = lambda frame, reason: None,
        computes_unasked: bool = False,
    ) -> None:
        self.measured = RunMeasurements()
        self.frames: Newest[FrameResult] = Newest()
        self.options = options
        self.source: Source | None = None
        self.pacing = False  # the next frame is not read yet for --max-fps or --max-mbit
        self.ended = False
        self._geometry = geometry
        self._encoder = encoder
        self._follower = follower
        self._sinks = sinks
        self._progress = progress
        self._trace = trace
        self._on_lost = on_lost
        self._computes_unasked = computes_unasked
        self._held: list[Newest[FrameResult]] = []  # frames that viewers hold
        self._changed = anyio.Event()  # objects, which frames that stand still have to show
        self._pace = Pace(options.max_fps, options.max_mbit)
        self._ahead = 0  # frames read whose global stage has not begun
        self._unwritten_pixels = 0  # of all frames under way
        self._begun = anyio.Condition()
        self._revisit_wanted = anyio.Event()
        self._windows_s = self._engines_s = 0.0  # moving averages of a frame
        self._edge_windows_s = 0.0  # of the edge's engine, until the last frame
        self._traced_s = -math.inf  # when traffic was put into the trace last
        self._stopping = False
        self._last_unsegmented = True
        self._masks_from: Collection[str] = ()  # sites of the last model run, from which masks are carried

    def stop(self) -> None:
        """Read no further frame; those under way are completed."""
        self._stopping = True
        if self.source is not None:
            self.source.stop()

    async def prompt(self, request: PromptRequest) -> str:
        """Follower.prompt; a frame that has to be computed for it is computed at once."""
        newest = self.frames.value
        if newest is not None and newest.lost is not None and newest.number == request.number:
            raise InputError("this picture could not be read, so there is nothing to point at")
        name = await self._follower.prompt(request)
        self._revisit_wanted.set()
        self.objects_changed()
        return name

    def objects_changed(self) -> None:
        """Show every frame that stands still with its objects as they are now, soon."""
        self._changed.set()

    async def _show_changes(self) -> None:
        """Show frames that stand still whenever their objects have changed, until cancelled. What has not
        changed of a frame is not made again."""
        known: list[tuple[FollowedObject, ObjectResult]] = []
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            made: list[tuple[FollowedObject, ObjectResult]] = []
            for shown in [*([self.frames] if self._standing else []), *self._held]:
                result = shown.value
                if result is None or result.recent is None:
                    continue
                followed = self._follower.on(result.recent)
                objects = await to_thread.run_sync(_still_objects, followed, result.recent, known)
                made += zip(followed, objects, strict=True)
                if shown.value is result:  # no newer one has come meanwhile
                    shown.put(replace(result, objects=objects))
            known = made

    @contextlib.contextmanager
    def holding(self, result: FrameResult) -> Iterator[Newest[FrameResult]]:
        """A finished frame for a viewer that works on it while others come; whenever its objects change there
        is a newer one. Raises InputError for a frame that was lost."""
        recent = result.recent
        if recent is None:
            raise InputError("a frame that could not be read cannot be held")
        held: Newest[FrameResult] = Newest()
        held.put(result)
        self._follower.hold(recent)
        self._held.append(held)
        try:
            if recent.image_embedding is None and self._to_be_computed(recent):
                self._follower.want(recent)
                self._revisit_wanted.set()
            yield held
        finally:
            self._held.remove(held)
            self._follower.let_go(recent)

    def _to_be_computed(self, recent: RecentFrame) -> bool:
        """Whether a frame that is held is to be computed though nobody asks anything on it."""
        return self._computes_unasked or self._follower.has_objects(recent.number, recent.place_s)

    @property
    def _standing(self) -> bool:
        return self.source is not None and self.source.standing

    @property
    def paused(self) -> bool:
        return self._encoder.paused

    @property
    def stopped(self) -> bool:
        """Whether `stop` ended the run, not its source."""
        return self._stopping

    def pause(self, paused: bool) -> None:
        """Send nothing more, until this is called with False."""
        self._encoder.pause(paused)
        self._revisit_wanted.set()

    async def run(self, source: Source) -> RunMeasurements:
        """Process the frames of a source that is open, and return what was measured."""
        self.source = source
        self.measured.sequential_engines = source.live
        self.measured.in_flight = 1 if source.live else self.options.in_flight
        started, before = time.perf_counter(), self._encoder.traffic
        self._edge_windows_s = self._encoder.window_s
        async with anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[FrameJob](self.options.in_flight)
            tasks.start_soon(self._read, source, tasks, send)
            for work in (self._global_then_decode,) if source.live else (self._global, self._decode):
                following, next_receive = anyio.create_memory_object_stream[FrameJob](0)
                tasks.start_soon(_step, work, receive, following)
                receive = next_receive
            tasks.start_soon(self._finish, receive)
        self._trace_traffic()
        self.measured.wall_s = time.perf_counter() - started
        self.measured.traffic = self._encoder.traffic - before
        self.ended = True
        return self.measured

    async def _read(self, source: Source, tasks: TaskGroup, send: MemoryObjectSendStream[FrameJob]) -> None:
        try:
            async with send, anyio.create_task_group() as revisits:
                revisits.start_soon(self._revisit, tasks, send)
                revisits.start_soon(self._show_changes)
                await self._read_new(source, tasks, send)
                revisits.cancel_scope.cancel()
        finally:
            source.stop()  # ends a thread that still waits for a frame

    async def _read_new(
        self, source: Source, tasks: TaskGroup, send: MemoryObjectSendStream[FrameJob]
    ) -> None:
        frames = iter(source)
        while not self._stopping:
            await self._wait_for_slot(source.live)
            job = await self._next(source, frames)
            if job is None:
                return
            await self._send_waiting(tasks, send)  # what was clicked on leaves before what is newer
            tasks.start_soon(self._collect_windows, job)
            await send.send(job)

    async def _revisit(self, tasks: TaskGroup, send: MemoryObjectSendStream[FrameJob]) -> None:
        """Send frames that were clicked on before they were computed, until cancelled. They take no
        slot of new frames."""
        while True:
            await self._revisit_wanted.wait()
            self._revisit_wanted = anyio.Event()
            await self._send_waiting(tasks, send)

    async def _send_waiting(self, tasks: TaskGroup, send: MemoryObjectSendStream[FrameJob]) -> None:
        while not self._encoder.paused and (recent := self._follower.next_waiting()) is not None:
            frame = Frame(recent.number, f"{recent.number}", 0.0, NOTHING)
            job = FrameJob(frame, time.perf_counter(), Fate.REVISITED, recent)
            tasks.start_soon(self._collect_windows, job)
            await send.send(job)

    async def _wait_for_slot(self, live: bool) -> None:
        """Wait until another frame may be under way."""
        async with self._begun:
            while self._ahead >= self.measured.in_flight or self._unwritten_pixels > self.options.full_pixels:
                await self._begun.wait()
                if live:
                    wanted = frames_ahead(self.measured.in_flight, self._windows_s, self._engines_s)
                    self.measured.in_flight = min(wanted, self.options.in_flight)
            self._ahead += 1

    async def _wait_for_pace(self) -> None:
        self.pacing = True
        with self.measured.timed("pace"):
            await self._pace.wait()
        self.pacing = False

    async def _next(self, source: Source, frames: Iterator[Frame]) -> FrameJob | None:
        await self._wait_for_pace()
        started = time.perf_counter()
        frame = await to_thread.run_sync(next, frames, None, abandon_on_cancel=source.live)
        if frame is None:
            return None
        if source.live:
            if not isinstance(source, Player):  # which waits for viewers
                self.measured.seconds["camera"].add(time.perf_counter() - started)
            started = time.perf_counter()
        captured_s = frame.captured_s or started
        if frame.error is not None:
            return FrameJob(frame, captured_s, Fate.LOST, reason=frame.error)
        self._unwritten_pixels += _area(frame)
        canvas = await to_thread.run_sync(make_canvas, frame.pixels, self._geometry)
        place_s = frame.time_s if isinstance(source, Player) else None
        recent = RecentFrame(frame.number, canvas, place_s=place_s)
        job = FrameJob(frame, captured_s, self._choose(frame, recent, source.standing), recent)
        self._record_step("read", job, started)
        return job

    def _choose(self, frame: Frame, recent: RecentFrame, standing: bool) -> Fate:
        """How this frame gets its masks, decided before anything of it can leave."""
        number, before_unsegmented = frame.number, self._last_unsegmented
        asked = self._follower.has_objects(number, recent.place_s)
        self._last_unsegmented = self._encoder.paused or not asked
        if self._last_unsegmented:
            return Fate.COMPUTED if standing and self._computes_unasked else Fate.UNSEGMENTED
        if frame.jumped:
            self._follower.force_keyframe()
        key = number % self.options.keyframe_every == 0 or self._follower.needs_keyframe(number)
        return Fate.COMPUTED if key or before_unsegmented else Fate.CARRIED

    async def _collect_windows(self, job: FrameJob) -> None:
        """Collect the embeddings of a frame's windows."""
        try:
            if job.fate in _NEEDS_ENCODING:
                started = time.perf_counter()
                encoding = self._encoder.start(_required(job.recent).canvas, job.frame.number)
                await encoding.collect()
                job.encoding, job.sites, job.kept = encoding, encoding.sites, encoding.kept.windows
                self._note_traffic()
                self._record_windows(job, started, encoding.kept.seconds)
                self._windows_s = _smooth(self._windows_s, time.perf_counter() - started)
        except FrameLost as exc:
            if job.fate is Fate.COMPUTED:  # what waits for a revisited frame starts with the next one
                job.fate, job.reason = Fate.LOST, str(exc)
        except SendingPaused:
            self._on_paused(job)
        finally:
            job.ready_s = time.perf_counter()
            job.windows_done.set()

    def _record_windows(self, job: FrameJob, started_s: float, keep_s: float) -> None:
        if keep_s:
            self._record_step("keep", job, started_s, started_s + keep_s)
        self._record_step("windows", job, started_s + keep_s)

    def _note_traffic(self) -> None:
        self._pace.sent(self._encoder.traffic.up)
        if time.perf_counter() - self._traced_s >= TRACED_S:
            self._trace_traffic()

    def _trace_traffic(self) -> None:
        traffic, now_s = self._encoder.traffic, time.perf_counter()
        self._traced_s = now_s
        if traffic.requests:
            self._trace.add_counter("sent to sites (MB)", now_s, traffic.up / 1e6)
            self._trace.add_counter("came from sites (MB)", now_s, traffic.down / 1e6)

    def _on_paused(self, job: FrameJob) -> None:
        """Sending was paused before the frame was complete."""
        self._follower.force_keyframe()
        if job.fate is Fate.REVISITED:
            job.fate = Fate.POSTPONED
            self._follower.put_back(_required(job.recent))
            self._revisit_wanted.set()
        else:
            job.fate = Fate.UNSEGMENTED

    async def _global(self, job: FrameJob) -> None:
        await job.windows_done.wait()
        if job.fate not in _ALREADY_WRITTEN:  # those hold no slot
            async with self._begun:
                self._ahead -= 1
                self._begun.notify()
        if job.encoding is not None:
            spent_s = self._spent_s()
            started = time.perf_counter()
            ahead_s = job.encoding.ahead_s
            _required(job.recent).image_embedding = await job.encoding.finish()
            job.encoding = None
            self._trace.add("global", f"frame {job.frame.number}", started, time.perf_counter())
            if job.fate not in _ALREADY_WRITTEN:
                if ahead_s:
                    self.measured.seconds[AHEAD].add(ahead_s)
                self._note_spent(("global",), spent_s, job)
                windows_s = self._encoder.window_s
                self.measured.seconds[EDGE_WINDOWS].add(windows_s - self._edge_windows_s)
                self._edge_windows_s = windows_s

    async def _global_then_decode(self, job: FrameJob) -> None:
        await job.windows_done.wait()
        started = time.perf_counter()
        await self._global(job)
        await self._decode(job)
        if job.fate in (Fate.COMPUTED, Fate.CARRIED):
            self._engines_s = _smooth(self._engines_s, time.perf_counter() - started)

    async def _decode(self, job: FrameJob) -> None:
        started, spent_s = time.perf_counter(), self._spent_s()
        if job.fate is Fate.UNSEGMENTED:
            self._follower.keep(_required(job.recent))
        elif job.fate is Fate.CARRIED:
            job.sites = self._masks_from
            self._encoder.doubts.used(job.frame.number, job.sites)
            job.objects = await self._follower.carry(_required(job.recent))
        elif job.fate is Fate.COMPUTED:
            self._masks_from = job.sites
            job.objects = await self._follower.compute(_required(job.recent))
        elif job.fate is Fate.REVISITED:
            await self._follower.compute_waiting(_required(job.recent))
            self.objects_changed()
        job.changes = self._follower.objects.changes
        if job.fate in (Fate.CARRIED, *_NEEDS_ENCODING):
            self._trace.add("decode", f"frame {job.frame.number}", started, time.perf_counter())
            if job.fate is not Fate.REVISITED:
                steps = ("track",) if job.fate is Fate.CARRIED else ("track", "decode")
                self._note_spent(steps, spent_s, job)

    async def _finish(self, receive: MemoryObjectReceiveStream[FrameJob]) -> None:
        async with receive:
            async for job in receive:
                if job.fate not in _ALREADY_WRITTEN:
                    await self._write(job)
                    self._progress(self.measured.frames)
                    async with self._begun:
                        full = self._unwritten_pixels > self.options.full_pixels
                        self._unwritten_pixels -= _area(job.frame)
                        if full:
                            self._begun.notify()
        await to_thread.run_sync(self._tell_of_doubts)

    async def _write(self, job: FrameJob) -> None:
        measured = self.measured
        measured.frames += 1
        measured.unsegmented += job.fate is Fate.UNSEGMENTED
        measured.carried += job.fate is Fate.CARRIED
        if job.fate is Fate.LOST:
            measured.lost.add(job.frame.name, job.reason)
            self._on_lost(job.frame, job.reason)
            result = FrameResult(job.frame, ())
        else:
            started = time.perf_counter()
            if job.fate in (Fate.COMPUTED, Fate.CARRIED):
                measured.seconds[QUEUE].add(job.queue_s + started - job.ready_s)
            result = await to_thread.run_sync(self._result, job)
            measured.note_objects({each.name: each.mask is not None for each in result.objects})
            self._record_step("write", job, started)
        done = time.perf_counter()
        measured.done_s.append(done)
        measured.processor.note()
        if job.fate is not Fate.LOST:
            measured.seconds["end_to_end"].add(done - job.started_s)
        if job.frame.error is not None and isinstance(self.source, Player):
            blank = replace(job.frame, pixels=BLANK)
            self.frames.put(FrameResult(blank, (), lost=job.reason))  # or the picture before would stay
        elif job.frame.error is None:
            self.frames.put(replace(result, latency_s=done - job.started_s))
            if self._standing and job.changes != self._follower.objects.changes:
                self.objects_changed()  # what was asked after its objects were found

    def _result(self, job: FrameJob) -> FrameResult:
        """The frame with the masks of its objects, after all sinks took it."""
        canvas = _required(job.recent).canvas
        doubtful = self._encoder.doubts.has(job.frame.number, job.sites)
        if self._standing:
            objects = _still_objects(job.objects, _required(job.recent), ())
        else:
            objects = tuple(_object_result(each, canvas) for each in job.objects)
        result = FrameResult(job.frame, objects, doubtful, job.kept, recent=job.recent)
        self._tell_of_doubts()
        for sink in self._sinks:
            sink.write(result)
        return result

    def _tell_of_doubts(self) -> None:
        for doubt in self._encoder.doubts.take_untold():
            for sink in self._sinks:
                sink.doubt(doubt)

    def _spent_s(self) -> dict[str, float]:
        """Seconds that engines and tracking have computed so far, by step."""
        follower = self._follower
        return {
            "global": self._encoder.global_s,
            "track": follower.tracking_s,
            "decode": follower.decoder_s,
        }

    def _note_spent(self, steps: Sequence[str], before: Mapping[str, float], job: FrameJob) -> None:
        """What these steps computed since `before`, one frame after another, and what else passed since the
        job was ready for them as waiting."""
        now = self._spent_s()
        for step in steps:
            self.measured.seconds[step].add(now[step] - before[step])
        computed_s = sum(now[step] - before[step] for step in steps)
        done_s = time.perf_counter()
        job.queue_s += max(0.0, done_s - job.ready_s - computed_s)
        job.ready_s = done_s

    def _record_step(self, step: str, job: FrameJob, started_s: float, ended_s: float | None = None) -> None:
        """A step of a frame, until now if nothing else is said."""
        ended_s = time.perf_counter() if ended_s is None else ended_s
        if job.fate not in _ALREADY_WRITTEN:
            self.measured.seconds[step].add(ended_s - started_s)
        self._trace.add(step, f"frame {job.frame.number}", started_s, ended_s)


def frames_ahead(now: int, windows_s: float, engines_s: float) -> int:
    """How many frames to have under way so that the engines need not wait for windows; one step from `now`.

    `windows_s` is how long the windows of a frame take at present, `engines_s` how long a frame keeps the
    engines. Frames under way together slow each other down, so one less is tried a little before it is
    sure to be enough.
    """
    if windows_s > now * engines_s > 0:
        return now + 1
    return now - 1 if windows_s < _FEWER_MARGIN * (now - 1) * engines_s else now


def _area(frame: Frame) -> int:
    return frame.pixels.size // 3


def _smooth(average: float, value: float) -> float:
    return average + (value - average) * _NEWEST_WEIGHT if average else value


async def _step(
    work: Callable[[FrameJob], Awaitable[None]],
    receive: MemoryObjectReceiveStream[FrameJob],
    send: MemoryObjectSendStream[FrameJob],
) -> None:
    async with receive, send:
        async for job in receive:
            await work(job)
            await send.send(job)


def _object_result(followed: FollowedObject, canvas: Canvas) -> ObjectResult:
    found = followed.found
    if found is None:
        return ObjectResult(followed.name, followed.colour, followed.state, 0.0, None)
    mask = canvas.to_frame_mask(found.logits)
    return ObjectResult(
        followed.name, followed.colour, followed.state, found.iou, mask, found.prompt, followed.trust
    )


def _still_objects(
    followed: Sequence[FollowedObject],
    recent: RecentFrame,
    known: Sequence[tuple[FollowedObject, ObjectResult]],
) -> tuple[ObjectResult, ...]:
    """Objects on a frame that stands still; those that are `known` as they are."""
    made = {id(each): result for each, result in known}
    return tuple(
        made.get(id(each)) or replace(_object_result(each, recent.canvas), choices=_choices(each, recent))
        for each in followed
    )


def _choices(followed: FollowedObject, recent: RecentFrame) -> tuple[Choice, ...]:
    """What an object's only point may mean, on the frame that has this point."""
    found, canvas = followed.found, recent.canvas
    if found is None or found.choices is None or found.prompt.from_frame != recent.number:
        return ()
    scale = min(1.0, CHOICE_PX / max(canvas.height, canvas.width))
    height, width = max(1, round(canvas.height * scale)), max(1, round(canvas.width * scale))
    small = replace(canvas, height=height, width=width)
    return tuple(
        Choice(small.to_frame_mask(logits), float(iou)) for logits, iou in zip(*found.choices, strict=True)
    )


def _required(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a step ran before the one it depends on")
    return value
