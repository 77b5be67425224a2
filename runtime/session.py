"""A run from options to summary."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from anyio import CancelScope, to_thread
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from media.video_writer import largest_side_px
from runtime.edge import open_edge
from runtime.frames.player import Player
from runtime.frames.sources import Frame, Source
from runtime.live.board_reader import watching_board
from runtime.live.heartbeat import Heartbeat, beating
from runtime.live.held_tiles import HeldTiles
from runtime.live.interface import Live
from runtime.live.live_pipeline import LivePipeline
from runtime.live.messages import Messages, telling
from runtime.live.saved_objects import saving_objects
from runtime.objects.follower import Follower
from runtime.objects.kept_objects import KeptObjects
from runtime.objects.prompts import Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.pipeline import Pipeline
from runtime.results.doubts import Doubts
from runtime.results.measurements import RunMeasurements
from runtime.results.outcome import nothing_done, shortfalls, stopped_early
from runtime.results.recording import Recording
from runtime.results.run_folder import (
    MASKS,
    PICTURES,
    RECORD,
    SUMMARY,
    VIDEO,
    RunFolder,
    run_folder,
)
from runtime.results.sinks import (
    FromFirstResult,
    MaskLines,
    OverlayPictures,
    OverlayVideo,
    Sink,
    banner_for,
    closing_all,
)
from runtime.results.summary import summarise, write_summary
from runtime.results.trace import NO_TRACE, Trace, check_trace
from runtime.results.verify import iou_with_unsplit
from runtime.run_options import RunOptions, check_run, required_out
from runtime.sites.may_see import sentence
from runtime.stopping import Stop, stopping
from stages.bundle import Bundle
from stages.errors import InputError, Stopped, printable
from stages.stops import exit_code

LOST_TOLD = 5  # lost frames that are told one by one
_ENDLESS = (TextColumn("{task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())

Sizes: TypeAlias = frozenset[tuple[int, int]]  # height and width of each kind of frame
# Watches a run while its block lasts; yields a line for the terminal.
Watcher: TypeAlias = Callable[[Live], contextlib.AbstractAsyncContextManager[str]]


@dataclass(frozen=True)
class _Run:
    """What is the same from a run's first moment to its last. `folder` is what `--out` names."""

    bundle: Bundle
    source: Source
    options: RunOptions
    messages: Messages
    folder: RunFolder | None
    stop: Stop

    @property
    def keeps_earlier(self) -> bool:
        """Whether results of an earlier run are left whole, since this one has none."""
        return self.folder is not None and not self.folder.begun and self.folder.holds_earlier

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary, if it has a place, with what was told until now."""
        summary["messages"], summary["warnings"] = self.messages.lines, list(self.messages.warnings)
        if self.folder is not None and not self.keeps_earlier:
            if not self.folder.begun:
                self.folder.begin()
            self.folder.note(self.folder.path / SUMMARY)
            write_summary(self.folder.path / SUMMARY, summary)


async def run_session(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    options: RunOptions,
    console: Console,
    watchers: Sequence[Watcher] = (),
    messages: Messages | None = None,
) -> dict[str, Any]:
    """Segment a source and write masks, overlays and summary.json under `options.out`; returns the summary.

    What a person is to know goes through `messages`, by default new ones on `console`. `nothing_done` of the
    summary says why the run did nothing, if it did not.

    Signals end it as `runtime.stopping` says. Raises a PedsamError, before anything is sent, for whatever can
    be known to be wrong by then, and Stopped when a signal came before the first frame was asked for.
    """
    messages = messages or Messages(console)
    summary: dict[str, Any] | None = None
    with stopping(messages.tell, source.stop) as stop, stop.instead_of_errors():
        check_run(bundle, source, options, here=False)
        if options.trace:
            check_trace(options.trace)  # it is written at the end
        with _out_folder(source, options) as folder:
            run = _Run(bundle, source, options, messages, folder, stop)
            summary = await _session(run, prompts, watchers)
    if summary is None:
        raise Stopped(stopped_early(str(stop.name)), exit_code(signal.Signals[str(stop.name)]))
    return summary


async def _session(run: _Run, prompts: Prompts, watchers: Sequence[Watcher]) -> dict[str, Any]:
    source, options, messages = run.source, run.options, run.messages
    async with (
        beating(options.heartbeat, _about(messages, "heartbeat"), options.pipeline.max_fps) as heartbeat,
        telling(messages, lambda: source.warnings),
        _opened(source) as sizes,
    ):
        prompts = prompts.inside(sizes, messages.tell, source.examples)
        options.kept.check_inside(sizes, source.examples)
        for doubt in (*prompts.doubts(), *options.doubts(source, watched=bool(watchers))):
            messages.warn(doubt)
        summary = await _run(run, sizes, prompts, watchers, heartbeat)
    run.write_summary(summary)
    if options.verify:
        await _add_verify(run, prompts, summary)
        run.write_summary(summary)
    return summary


def _out_folder(source: Source, options: RunOptions) -> contextlib.AbstractContextManager[RunFolder | None]:
    """What `--out` names, for this run alone."""
    if options.out is None:
        return contextlib.nullcontext()
    return run_folder(options.out, options.writes(source))


@contextlib.asynccontextmanager
async def _opened(source: Source) -> AsyncIterator[Sizes]:
    """The sizes of an open source's frames."""
    await to_thread.run_sync(source.__enter__)
    try:
        yield await to_thread.run_sync(source.sizes)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(source.__exit__, None, None, None)


async def _run(
    run: _Run, sizes: Sizes, prompts: Prompts, watchers: Sequence[Watcher], heartbeat: Heartbeat
) -> dict[str, Any]:
    bundle, source, options, messages = run.bundle, run.source, run.options, run.messages
    trace = Trace() if options.trace else NO_TRACE
    held = HeldTiles.of(bundle)
    async with open_edge(
        bundle,
        sizes,
        options,
        partial(_tell_of_site, messages),
        trace.add_window,
        held.sent if watchers else None,
        trace.add_part if options.trace else None,
        films=options.follows(source),
    ) as edge:
        if edge.keeper.looks_for:
            messages.console.print(Text(printable(edge.keeper.looks_for)))
        if edge.may_see:
            messages.console.print(Text(printable(sentence(edge.may_see, len(edge.areas.windows)))))
        objects = ObjectRegistry(prompts, options.make_track(source))
        with _progress(messages.console, source.count, "frames") as progress:
            async with _sinks(run, sizes) as sinks:
                follower = Follower(edge.engines, objects)
                edge.keeper.of_objects = KeptObjects(follower).on
                pipeline = Pipeline(
                    bundle.geometry,
                    edge.encoder,
                    follower,
                    sinks,
                    options.pipeline,
                    progress,
                    trace,
                    _telling_lost(messages),
                    computes_unasked=not options.sites,
                )
                heartbeat.pipeline = pipeline
                async with watching_board(options.board, trace, messages.tell) as board:
                    live = LivePipeline(
                        pipeline,
                        follower,
                        edge,
                        bundle.geometry,
                        _windows(bundle, sizes),
                        board,
                        messages,
                        held,
                        options.keep_boxes if options.sites else (),
                        options.verify,
                        source if isinstance(source, Player) else None,
                    )
                    async with (
                        _watched(live, watchers, messages.console),
                        saving_objects(options.state, objects, pipeline.frames, _about(messages, "objects")),
                    ):
                        run.stop.then("stopping after the frames under way", pipeline.stop)
                        measured = await pipeline.run(source)
                        run.stop.then("stopping once the results are written")
    messages.report_all()  # what was held back of frames comes before what is said of all of them
    if edge.ledger.unwritten is not None:
        messages.warn(edge.ledger.unwritten)
    _warn_of_shortfalls(messages, measured, prompts, source, pipeline, edge.encoder.doubts)
    asked = bool(prompts.entries) and not source.live
    nothing = nothing_done(measured, asked=asked, stopped=run.stop.name)
    if run.folder is not None and run.keeps_earlier:
        kept = f"{run.folder.path} still holds the results of an earlier run"
        if nothing is None:
            messages.warn(kept)
        else:
            nothing += f"; {kept}"
    summary = summarise(bundle, edge, measured, source.dropped, board.summary(), options.price_per_gb)
    summary |= {"nothing_done": nothing, "stopped": run.stop.name}
    if options.trace:
        run.write_summary(summary)  # a trace that cannot be written takes nothing away
        await to_thread.run_sync(trace.write, options.trace)
    return summary


def _about(messages: Messages, thing: str) -> Callable[[str], None]:
    """Tells what state a thing is in."""
    return partial(messages.tell, about=thing)


def _tell_of_site(messages: Messages, text: str) -> None:
    """A sentence of a site begins with its name and a colon."""
    messages.tell(text, about=text.partition(":")[0] if text.startswith("site ") else None)


def _telling_lost(messages: Messages) -> Callable[[Frame, str], None]:
    """Tells each of the first lost frames, and then how many more there are."""
    numbers = count(1)

    def tell(frame: Frame, why: str) -> None:
        reason = f"lost frame {min(next(numbers), LOST_TOLD + 1)}"
        messages.tell(f"frame {frame.name} is lost: {why}", reason)

    return tell


def _warn_of_shortfalls(
    messages: Messages,
    measured: RunMeasurements,
    prompts: Prompts,
    source: Source,
    pipeline: Pipeline,
    doubts: Doubts,
) -> None:
    complete = not source.live and not pipeline.stopped
    for text in shortfalls(measured, prompts if complete else Prompts(()), doubts.all):
        messages.warn(text)


def _windows(bundle: Bundle, sizes: Sizes) -> frozenset[int]:
    return frozenset(w for size in sizes for w in bundle.geometry.windows_with_picture(*size))


@contextlib.asynccontextmanager
async def _watched(live: Live, watchers: Sequence[Watcher], console: Console) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for watcher in watchers:
            line = await stack.enter_async_context(watcher(live))
            console.print(line)
        yield


async def _add_verify(run: _Run, prompts: Prompts, summary: dict[str, Any]) -> None:
    """Add how well the masks are those of the unsplit model. A signal that comes only now ends that."""
    summary["iou_with_unsplit"] = None
    with CancelScope() as scope:
        if run.stop.name is None:
            run.stop.then("stopping: --verify is left undone", scope.cancel)
        summary["iou_with_unsplit"] = await _verify(run, prompts)
    if summary["iou_with_unsplit"] is None and not scope.cancelled_caught:
        nothing = "nothing was done by --verify: there is no mask to compare"
        run.messages.warn(nothing)
        summary["nothing_done"] = summary["nothing_done"] or nothing
    run.stop.then("stopping once the results are written")


async def _verify(run: _Run, prompts: Prompts) -> float | None:
    options = run.options
    if not (required_out(options) / MASKS).exists() or run.keeps_earlier:
        return None
    with _progress(run.messages.console, run.source.count, "unsplit") as progress:
        return await iou_with_unsplit(
            run.bundle,
            run.source,
            prompts,
            required_out(options) / MASKS,
            options.backend,
            options.threads,
            progress,
            options.make_track(run.source),
            options.pipeline.keyframe_every,
        )


@contextlib.asynccontextmanager
async def _sinks(run: _Run, sizes: Sizes) -> AsyncIterator[Sequence[Sink]]:
    """Sinks, closed with the block: for files into `out`, for live sources into parts of a recording."""
    if run.folder is None:
        yield ()
        return
    sinks = (FromFirstResult(partial(_begin, run, run.folder, sizes)),)
    async with closing_all(sinks):
        yield sinks


def _begin(run: _Run, folder: RunFolder, sizes: Sizes) -> Sequence[Sink]:
    """Take the results of an earlier run away, and make the sinks for those of this one."""
    if folder.begin() and not run.source.live:  # of a live source that was a summary alone
        run.messages.tell(f"{folder.path} held results of an earlier run, which are gone now")
    if not run.options.records(run.source):
        return ()
    if not run.source.live:
        return _write_into(run, sizes, folder.note, folder.path)
    make = partial(_write_into, run, sizes, lambda path: None)
    limit_bytes = round(run.options.record_mb * 1e6)
    return (Recording(folder.path / RECORD, limit_bytes, make, say=run.messages.tell),)


def _write_into(run: _Run, sizes: Sizes, note: Callable[[Path], None], folder: Path) -> Sequence[Sink]:
    """Sinks of one folder. Masks come last: a frame whose overlay cannot be written has none."""
    source, banner = run.source, banner_for(run.bundle.weights)
    note(folder / MASKS)
    masks = MaskLines(folder / MASKS, run.bundle.weights)
    if source.is_sequence and (source.live or source.fps) and _fits_a_video(sizes):
        note(folder / VIDEO)
        return (OverlayVideo(folder / VIDEO, source.fps, banner, run.messages.warn), masks)
    try:
        return (OverlayPictures(folder / PICTURES, banner, note), masks)
    except InputError:
        masks.close()
        raise


def _fits_a_video(sizes: Sizes) -> bool:
    return max(side for size in sizes for side in size) <= largest_side_px()


@contextlib.contextmanager
def _progress(console: Console, total: int | None, what: str) -> Iterator[Any]:
    columns = Progress.get_default_columns() if total is not None else _ENDLESS
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
