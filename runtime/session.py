"""A run from options to summary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from anyio import to_thread
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from runtime.edge import EdgeOptions, open_edge
from runtime.follow import Follower
from runtime.live import Live
from runtime.live_loop import LiveLoop
from runtime.loop import Loop, LoopOptions
from runtime.memory import remembered
from runtime.objects import MakeTrack, Objects
from runtime.prompts import Prompts
from runtime.recording import Recording
from runtime.sinks import MaskLines, OverlayPictures, OverlayVideo, Sink, banner_for, writing
from runtime.sources import Source
from runtime.summary import summarise, write_summary
from runtime.trace import NO_TRACE, Trace
from runtime.tracking import Still, Track
from runtime.verify import iou_with_unsplit
from stages.bundle import Bundle
from stages.errors import InputError

MASKS = "masks.jsonl"
SUMMARY = "summary.json"
_ENDLESS = (TextColumn("{task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())
_LIVE_VIDEO_FPS = 10.0  # of recordings of live sources whose speed is not known

# Something that looks at a run while it lasts, open in the block; it gives a line for the person who started
# it.
Watcher: TypeAlias = Callable[[Live], contextlib.AbstractAsyncContextManager[str]]


@dataclass(frozen=True, kw_only=True)
class RunOptions(EdgeOptions):
    """Options of `pedsam run`; see its help. `track` None follows objects where the source is a film;
    `record` None writes results of files, not of live sources. `remember` is the prompts file of a live
    run."""

    out: Path | None = None
    allow_undistilled: bool = False
    verify: bool = False
    track: bool | None = None
    loop: LoopOptions = field(default_factory=LoopOptions)
    record: bool | None = None
    record_mb: float = 1000.0
    remember: Path | None = None
    trace: Path | None = None

    def records(self, source: Source) -> bool:
        """Whether results of this source are written."""
        return not source.live if self.record is None else self.record

    def make_track(self, source: Source) -> MakeTrack:
        """How its objects are followed."""
        return Track if (source.film if self.track is None else self.track) else Still


async def run_session(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    options: RunOptions,
    console: Console,
    watchers: Sequence[Watcher] = (),
) -> dict[str, Any]:
    """Segment a source and write masks, overlays and summary.json under `options.out`; returns the summary.

    Raises a PedsamError, before anything is sent, for whatever can be known to be wrong by then.
    """
    _check_options(bundle, source, options)
    async with _opened(source):
        prompts.check_inside(source.sizes())
        summary = await _run(bundle, source, prompts, options, console, watchers)
    _write_summary(options, summary)
    if options.verify:
        summary["iou_with_unsplit"] = await _verify(bundle, source, prompts, options, console)
        _write_summary(options, summary)
    return summary


@contextlib.asynccontextmanager
async def _opened(source: Source) -> AsyncIterator[None]:
    await to_thread.run_sync(source.__enter__)
    try:
        yield
    finally:
        source.stop()


async def _run(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    options: RunOptions,
    console: Console,
    watchers: Sequence[Watcher],
) -> dict[str, Any]:
    say = partial(console.print, markup=False, highlight=False)  # sites word part of it
    trace = Trace() if options.trace else NO_TRACE
    async with open_edge(bundle, source.sizes(), options, say) as edge:
        edge.dispatcher.watch = trace.add_window
        objects = Objects(prompts, options.make_track(source))
        with (
            _progress(console, source.count, "frames") as progress,
            _sinks(bundle, source, options) as sinks,
        ):
            follower = Follower(edge.engines, objects)
            loop = Loop(
                bundle.geometry, edge.engines, edge.dispatcher, follower, sinks, options.loop, progress, trace
            )
            live = LiveLoop(loop, follower, edge.dispatcher, bundle.geometry, _windows(bundle, source))
            async with _watched(live, watchers, console), remembered(options.remember, objects, loop.frames):
                with _stop_on_signal(loop, say):
                    measured = await loop.run(source)
    if options.trace:
        await to_thread.run_sync(trace.write, options.trace)
    return summarise(bundle, edge.dispatcher, measured, edge.wire_format, source.dropped)


def _windows(bundle: Bundle, source: Source) -> frozenset[int]:
    sizes = source.sizes()
    return frozenset(w for size in sizes for w in bundle.geometry.windows_with_picture(*size))


@contextlib.asynccontextmanager
async def _watched(live: Live, watchers: Sequence[Watcher], console: Console) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for watcher in watchers:
            line = await stack.enter_async_context(watcher(live))
            # an address with a line break in it can be neither clicked nor copied
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        yield


async def _verify(
    bundle: Bundle, source: Source, prompts: Prompts, options: RunOptions, console: Console
) -> float | None:
    masks = _out(options) / MASKS
    with _progress(console, source.count, "unsplit") as progress:
        return await iou_with_unsplit(
            bundle,
            source,
            prompts,
            masks,
            options.backend,
            options.threads,
            progress,
            options.make_track(source),
            options.loop.keyframe_every,
        )


def _check_options(bundle: Bundle, source: Source, options: RunOptions) -> None:
    if bundle.weights != "distilled" and not options.allow_undistilled:
        raise InputError(
            f"{bundle.path} has {bundle.weights} weights, whose masks are not meaningful; use a distilled "
            "bundle, or --allow-undistilled to try the rest (every overlay is then marked)"
        )
    if options.records(source):
        _out(options)
    if options.verify:
        if source.live or not options.records(source):
            raise InputError(
                "--verify reads the source and its masks again: give files and --out, not a camera"
            )
        bundle.verified_file("whole")


def _out(options: RunOptions) -> Path:
    if options.out is None:
        raise InputError("where to write results is missing: give --out DIR, or --no-record to write none")
    return options.out


def _write_summary(options: RunOptions, summary: dict[str, Any]) -> None:
    if options.out is not None:
        with writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out / SUMMARY, summary)


@contextlib.contextmanager
def _sinks(bundle: Bundle, source: Source, options: RunOptions) -> Iterator[list[Sink]]:
    """Sinks, closed with the block: for files into `out`, for live sources into parts of a recording."""
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if options.records(source):
            make = partial(_write_into, bundle.weights, source)
            if source.live:
                limit_bytes = round(options.record_mb * 1e6)
                sinks.append(Recording(_out(options) / "record", limit_bytes, make))
            else:
                sinks += make(_out(options))
        for sink in sinks:
            stack.callback(sink.close)
        yield sinks


def _write_into(weights: str, source: Source, folder: Path) -> list[Sink]:
    banner = banner_for(weights)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    masks = MaskLines(folder / MASKS, weights)
    try:
        if source.film and (source.live or source.fps):
            return [masks, OverlayVideo(folder / "overlay.mp4", source.fps or _LIVE_VIDEO_FPS, banner)]
        return [masks, OverlayPictures(folder / "overlay", banner)]
    except InputError:
        masks.close()
        raise


@contextlib.contextmanager
def _progress(console: Console, total: int | None, what: str) -> Iterator[Any]:
    columns = Progress.get_default_columns() if total is not None else _ENDLESS
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def _stop_on_signal(loop: Loop, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after the frames under way, with complete files; the
    second one aborts."""
    running = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        for each in signals:
            running.remove_signal_handler(each)
        loop.stop()
        say("stopping after the frames under way")

    for each in signals:
        running.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in signals:
            running.remove_signal_handler(each)
