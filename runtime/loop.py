"""The pipeline of a run: read -> windows -> global -> decode -> write, one task a step.

Steps are joined by queues of one frame, so that while the global stage of a frame runs, the windows of the
next one travel and the one after is being read. Frames leave in order. A full queue holds its writer back:
a file source drops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runtime.canvas import Canvas, make_canvas
from runtime.decode import ObjectMask, decode
from runtime.dispatch import Dispatcher, FrameLost
from runtime.prompts import Prompts
from runtime.sinks import Result, Sink
from runtime.sources import Frame, Source
from stages.engine import EngineThread
from stages.geometry import Geometry
from stages.tensors import Array

T = TypeVar("T")

STEPS = ("read", "windows", "global", "decode", "write")


@dataclass
class Job:
    """A frame on its way; each step adds its part, `lost` says why later steps leave it alone."""

    frame: Frame
    started_s: float
    canvas: Canvas | None = None
    embeddings: Array | None = None
    image_embedding: Array | None = None
    objects: list[ObjectMask] = field(default_factory=list)
    lost: str | None = None


@dataclass
class Measured:
    """What a run measured. `seconds` per step and "end_to_end" hold one value a frame that got through it."""

    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in (*STEPS, "end_to_end")}
    )
    frames: int = 0
    lost: dict[int, str] = field(default_factory=dict)
    wall_s: float = 0.0


class Loop:
    """Runs a source through the pipeline once."""

    def __init__(
        self,
        geometry: Geometry,
        engines: EngineThread,
        dispatcher: Dispatcher,
        prompts: Prompts,
        sinks: Sequence[Sink],
        progress: Callable[[int], None] = lambda frames: None,
    ) -> None:
        self.measured = Measured()
        self._geometry = geometry
        self._engines = engines
        self._dispatcher = dispatcher
        self._prompts = prompts
        self._sinks = sinks
        self._progress = progress
        self._stopping = False

    def stop(self) -> None:
        """Read no further frame; those under way are completed."""
        self._stopping = True

    async def run(self, source: Source) -> Measured:
        """Process every frame of the source and return what was measured."""
        started = time.perf_counter()
        steps = (("windows", self._windows), ("global", self._global), ("decode", self._decode))
        async with anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[Job](1)
            tasks.start_soon(self._read, source, send)
            for name, work in steps:
                following, next_receive = anyio.create_memory_object_stream[Job](1)
                tasks.start_soon(self._step, name, work, receive, following)
                receive = next_receive
            tasks.start_soon(self._finish, receive)
        self.measured.wall_s = time.perf_counter() - started
        return self.measured

    async def _read(self, source: Source, send: MemoryObjectSendStream[Job]) -> None:
        frames = iter(source)
        async with send:
            while not self._stopping:
                started = time.perf_counter()
                frame = await to_thread.run_sync(next, frames, None)
                if frame is None:
                    return
                job = Job(frame, started, lost=frame.error)
                if not frame.error:
                    job.canvas = await to_thread.run_sync(make_canvas, frame.pixels, self._geometry)
                    self.measured.seconds["read"].append(time.perf_counter() - started)
                await send.send(job)

    async def _step(
        self,
        name: str,
        work: Callable[[Job], Awaitable[None]],
        receive: MemoryObjectReceiveStream[Job],
        send: MemoryObjectSendStream[Job],
    ) -> None:
        async with receive, send:
            async for job in receive:
                if job.lost is None:
                    started = time.perf_counter()
                    await work(job)
                    if job.lost is None:
                        self.measured.seconds[name].append(time.perf_counter() - started)
                await send.send(job)

    async def _windows(self, job: Job) -> None:
        try:
            job.embeddings = await self._dispatcher.embed(_present(job.canvas))
        except FrameLost as exc:
            job.lost = str(exc)

    async def _global(self, job: Job) -> None:
        outputs = await self._engines.infer("global", {"embedding": _present(job.embeddings)})
        job.image_embedding = outputs["image_embedding"]
        job.embeddings = None

    async def _decode(self, job: Job) -> None:
        prompts = self._prompts.at(job.frame.number)
        embedding, canvas = _present(job.image_embedding), _present(job.canvas)
        job.objects = await decode(self._engines, embedding, canvas, prompts)

    async def _finish(self, receive: MemoryObjectReceiveStream[Job]) -> None:
        async with receive:
            async for job in receive:
                self.measured.frames += 1
                if job.lost is not None:
                    self.measured.lost[job.frame.number] = job.lost
                else:
                    started = time.perf_counter()
                    await to_thread.run_sync(self._write, job)
                    done = time.perf_counter()
                    self.measured.seconds["write"].append(done - started)
                    self.measured.seconds["end_to_end"].append(done - job.started_s)
                self._progress(self.measured.frames)

    def _write(self, job: Job) -> None:
        canvas = _present(job.canvas)
        objects = tuple((found, canvas.to_frame_mask(found.logits)) for found in job.objects)
        for sink in self._sinks:
            sink.write(Result(job.frame, objects))


def _present(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a step ran before the one it depends on")
    return value
