"""The pipeline of a run: read -> windows -> global -> decode -> write, one task a step.

While the global stage of a frame runs, the windows of the next ones travel, at most `in_flight` frames of
them, and one more is being read. Frames leave in order. Nothing is read before there is room: a file drops
nothing, and a live source hands on the newest frame there is by then.

A file is to be done soon: the global stage of a frame begins before the masks of the one before are decoded.
A live frame is to be shown soon: its masks come before the next frame's global stage, and no more frames are
ahead of it than keep the engines busy, since any other would only grow old.

Nothing leaves the edge for a frame on which nothing is to be segmented, nor while sending is paused: such a
frame passes through bare.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runtime.canvas import Canvas, make_canvas
from runtime.dispatch import Dispatcher, FrameLost, SendingPaused
from runtime.follow import Followed, Follower, Kept
from runtime.live import Newest, Shown, ShownObject
from runtime.measure import Measured
from runtime.pace import Pace
from runtime.sinks import Result, ResultObject, Sink
from runtime.sources import NOTHING, Frame, Source
from runtime.trace import NO_TRACE, Trace
from stages.engine import EngineThread
from stages.geometry import Geometry
from stages.tensors import Array

_TRY = 1.1  # so many times the time that would do for one frame less, and one less is tried
_NEWEST = 0.2  # weight of the newest value in an average

T = TypeVar("T")


@dataclass(frozen=True)
class LoopOptions:
    """How the pipeline runs; see the help of `pedsam run`."""

    in_flight: int = 3
    keyframe_every: int = 1
    max_fps: float | None = None
    max_mbit: float | None = None


@dataclass
class Job:
    """A frame on its way; each step adds its part, `lost` says why later steps leave it alone.

    `bare` is shown as it is, `carried` takes its masks from the frame before, `again` computes a frame that
    was shown already, for a click on it.
    """

    frame: Frame
    started_s: float
    kept: Kept | None = None
    bare: bool = False
    carried: bool = False
    again: bool = False
    travelled: anyio.Event = field(default_factory=anyio.Event)
    embeddings: Array | None = None
    objects: list[Followed] = field(default_factory=list)
    lost: str | None = None

    @property
    def computed(self) -> bool:
        return not (self.bare or self.carried or self.lost is not None)


class Loop:
    """Runs a source through the pipeline once."""

    def __init__(
        self,
        geometry: Geometry,
        engines: EngineThread,
        dispatcher: Dispatcher,
        follower: Follower,
        sinks: Sequence[Sink],
        options: LoopOptions = LoopOptions(),
        progress: Callable[[int], None] = lambda frames: None,
        trace: Trace = NO_TRACE,
    ) -> None:
        self.measured = Measured()
        self.frames: Newest[Shown] = Newest()
        self.options = options
        self.source: Source | None = None
        self._geometry = geometry
        self._engines = engines
        self._dispatcher = dispatcher
        self._follower = follower
        self._sinks = sinks
        self._progress = progress
        self._trace = trace
        self._pace = Pace(options.max_fps, options.max_mbit)
        self._ahead = 0  # frames read whose global stage has not begun
        self._begun = anyio.Condition()
        self._travel_s = self._engines_s = 0.0  # lately, of a frame: windows under way; on the engines
        self._stopping = False
        self._bare_before = True

    def stop(self) -> None:
        """Read no further frame; those under way are completed."""
        self._stopping = True
        if self.source is not None:
            self.source.stop()

    async def run(self, source: Source) -> Measured:
        """Process the frames of a source that is open, and return what was measured."""
        self.source = source
        self.measured.in_turn = source.live
        self.measured.in_flight = 1 if source.live else self.options.in_flight
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[Job](self.options.in_flight)
            tasks.start_soon(self._read, source, tasks, send)
            for work in (self._engines_in_turn,) if source.live else (self._global, self._decode):
                following, next_receive = anyio.create_memory_object_stream[Job](0)
                tasks.start_soon(_step, work, receive, following)
                receive = next_receive
            tasks.start_soon(self._finish, receive)
        self.measured.wall_s = time.perf_counter() - started
        return self.measured

    async def _read(self, source: Source, tasks: TaskGroup, send: MemoryObjectSendStream[Job]) -> None:
        frames = iter(source)
        try:
            async with send:
                while not self._stopping:
                    await self._room(source.live)
                    job = await self._next(source, frames)
                    if job is None:
                        return
                    for each in (*self._again(), job):
                        tasks.start_soon(self._travel, each)
                        await send.send(each)
        finally:
            source.stop()  # ends a thread that still waits for a frame

    async def _room(self, live: bool) -> None:
        """Wait until another frame may travel."""
        async with self._begun:
            while self._ahead >= self.measured.in_flight:
                await self._begun.wait()
                if live:
                    wanted = frames_ahead(self.measured.in_flight, self._travel_s, self._engines_s)
                    self.measured.in_flight = min(wanted, self.options.in_flight)
            self._ahead += 1

    def _again(self) -> Iterator[Job]:
        """Frames that were clicked on before they were computed, to go before any newer one."""
        while not self._dispatcher.paused and (kept := self._follower.next_waiting()) is not None:
            frame = Frame(kept.number, f"{kept.number}", 0.0, NOTHING)
            yield Job(frame, time.perf_counter(), kept, again=True)

    async def _next(self, source: Source, frames: Iterator[Frame]) -> Job | None:
        with self.measured.timed("pace"):
            await self._pace.wait()
        started = time.perf_counter()
        frame = await to_thread.run_sync(next, frames, None, abandon_on_cancel=source.live)
        if frame is None:
            return None
        if source.live:
            self.measured.seconds["camera"].add(time.perf_counter() - started)
            started = time.perf_counter()
        job = Job(frame, frame.captured_s or started, lost=frame.error)
        if frame.error is None:
            canvas = await to_thread.run_sync(make_canvas, frame.pixels, self._geometry)
            job.kept = Kept(frame.number, canvas)
            self._choose(job)
            self._note("read", job, started)
        return job

    def _choose(self, job: Job) -> None:
        """How this frame gets its masks, decided before anything of it can leave."""
        number = job.frame.number
        after_bare = self._bare_before
        self._bare_before = job.bare = self._dispatcher.paused or not self._follower.wanted(number)
        key = number % self.options.keyframe_every == 0 or self._follower.must_compute(number)
        job.carried = not (job.bare or key or after_bare)

    async def _travel(self, job: Job) -> None:
        """Fetch the embeddings of a frame's windows."""
        try:
            if job.computed:
                started = time.perf_counter()
                job.embeddings = await self._dispatcher.embed(_present(job.kept).canvas)
                self._pace.sent(self._dispatcher.bytes_up)
                self._note("windows", job, started)
                self._travel_s = _smooth(self._travel_s, time.perf_counter() - started)
        except FrameLost as exc:
            job.lost = str(exc)
        except SendingPaused:
            job.bare = True
            self._follower.compute_next()
            if job.again:
                self._follower.put_back(_present(job.kept))
        finally:
            job.travelled.set()

    async def _global(self, job: Job) -> None:
        await job.travelled.wait()
        if not job.again:  # those come on top
            async with self._begun:
                self._ahead -= 1
                self._begun.notify()
        if job.computed:
            started = time.perf_counter()
            outputs = await self._engines.infer("global", {"embedding": _present(job.embeddings)})
            _present(job.kept).image_embedding = outputs["image_embedding"]
            job.embeddings = None
            self._note("global", job, started)

    async def _engines_in_turn(self, job: Job) -> None:
        await job.travelled.wait()
        started = time.perf_counter()
        await self._global(job)
        await self._decode(job)
        if not (job.bare or job.again or job.lost):
            self._engines_s = _smooth(self._engines_s, time.perf_counter() - started)

    async def _decode(self, job: Job) -> None:
        if job.kept is None or (job.lost is not None and not job.again):
            return
        started = time.perf_counter()
        if job.again:
            if not job.bare:
                await self._follower.compute_waiting(job.kept)
        elif job.bare:
            self._follower.keep(job.kept)
        elif job.carried:
            job.objects = await self._follower.carry(job.kept)
        else:
            job.objects = await self._follower.compute(job.kept)
        if not job.bare:
            self._note("decode", job, started)

    async def _finish(self, receive: MemoryObjectReceiveStream[Job]) -> None:
        async with receive:
            async for job in receive:
                if not job.again:
                    await self._write(job)
                    self._progress(self.measured.frames)

    async def _write(self, job: Job) -> None:
        measured = self.measured
        measured.frames += 1
        measured.bare += job.bare
        measured.carried += job.carried
        if job.lost is not None:
            measured.lost.add(job.frame.number, job.lost)
        objects: tuple[ResultObject, ...] = ()
        if job.lost is None:
            started = time.perf_counter()
            objects = await to_thread.run_sync(self._results, job)
            self._note("write", job, started)
        done = time.perf_counter()
        measured.done_s.append(done)
        if job.lost is None:
            measured.seconds["end_to_end"].add(done - job.started_s)
        if job.frame.error is None:
            shown = tuple(each.shown for each in objects)
            frame = job.frame
            self.frames.put(Shown(frame.number, frame.time_s, done - job.started_s, frame.pixels, shown))

    def _results(self, job: Job) -> tuple[ResultObject, ...]:
        """The objects of a frame with their masks, after all sinks took them."""
        canvas = _present(job.kept).canvas
        objects = tuple(_result(each, canvas) for each in job.objects)
        for sink in self._sinks:
            sink.write(Result(job.frame, objects))
        return objects

    def _note(self, step: str, job: Job, started_s: float) -> None:
        now_s = time.perf_counter()
        if not job.again:
            self.measured.seconds[step].add(now_s - started_s)
        self._trace.add(step, f"frame {job.frame.number}", started_s, now_s)


def frames_ahead(now: int, travel_s: float, engines_s: float) -> int:
    """How many frames to have under way so that the engines need not wait for windows; one step from `now`.

    `travel_s` is how long the windows of a frame take at present, `engines_s` how long a frame keeps the
    engines. Frames that travel together slow each other down, so one less is tried a little before it is
    sure to be enough.
    """
    if travel_s > now * engines_s > 0:
        return now + 1
    return now - 1 if travel_s < _TRY * (now - 1) * engines_s else now


def _smooth(average: float, value: float) -> float:
    return average + (value - average) * _NEWEST if average else value


async def _step(
    work: Callable[[Job], Awaitable[None]],
    receive: MemoryObjectReceiveStream[Job],
    send: MemoryObjectSendStream[Job],
) -> None:
    async with receive, send:
        async for job in receive:
            await work(job)
            await send.send(job)


def _result(followed: Followed, canvas: Canvas) -> ResultObject:
    found = followed.found
    mask = canvas.to_frame_mask(found.logits) if found is not None else None
    iou = found.iou if found is not None else 0.0
    shown = ShownObject(followed.name, followed.colour, followed.state.value, iou, mask)
    return ResultObject(shown, found.prompt if found is not None else None)


def _present(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a step ran before the one it depends on")
    return value
