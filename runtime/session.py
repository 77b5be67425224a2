"""A run from options to summary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from runtime.edge import EdgeOptions, open_edge
from runtime.loop import Loop
from runtime.prompts import Prompts
from runtime.sinks import MaskLines, OverlayPictures, OverlayVideo, Sink, banner_for, writing
from runtime.sources import Source
from runtime.summary import summarise, write_summary
from runtime.verify import iou_with_unsplit
from stages.bundle import Bundle
from stages.errors import InputError

MASKS = "masks.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class RunOptions(EdgeOptions):
    """Options of `pedsam run`; see its help."""

    out: Path
    allow_undistilled: bool = False
    verify: bool = False


async def run_session(
    bundle: Bundle, source: Source, prompts: Prompts, options: RunOptions, console: Console
) -> dict[str, Any]:
    """Segment a source and write masks, overlays and summary.json under `options.out`; returns the summary.

    Raises a PedsamError, before anything is sent, for whatever can be known to be wrong by then.
    """
    _check_weights(bundle, options)
    if options.verify:
        bundle.verified_file("whole")
    prompts.check_inside(source.sizes())
    summary = await _run(bundle, source, prompts, options, console)
    write_summary(options.out / SUMMARY, summary)
    if options.verify:
        summary["iou_with_unsplit"] = await _verify(bundle, source, prompts, options, console)
        write_summary(options.out / SUMMARY, summary)
    return summary


async def _run(
    bundle: Bundle, source: Source, prompts: Prompts, options: RunOptions, console: Console
) -> dict[str, Any]:
    say = partial(console.print, markup=False, highlight=False)  # sites word part of it
    async with open_edge(bundle, source.sizes(), options, say) as edge:
        with (
            _progress(console, source.count, "frames") as progress,
            _sinks(bundle, source, options.out) as sinks,
        ):
            loop = Loop(bundle.geometry, edge.engines, edge.dispatcher, prompts, sinks, progress)
            with _stop_on_interrupt(loop, say):
                measured = await loop.run(source)
    return summarise(bundle, edge.dispatcher, measured, edge.wire_format)


async def _verify(
    bundle: Bundle, source: Source, prompts: Prompts, options: RunOptions, console: Console
) -> float | None:
    masks = options.out / MASKS
    with _progress(console, source.count, "unsplit") as progress:
        return await iou_with_unsplit(
            bundle, source, prompts, masks, options.backend, options.threads, progress
        )


def _check_weights(bundle: Bundle, options: RunOptions) -> None:
    if bundle.weights != "distilled" and not options.allow_undistilled:
        raise InputError(
            f"{bundle.path} has {bundle.weights} weights, whose masks are not meaningful; use a distilled "
            "bundle, or --allow-undistilled to try the rest (every overlay is then marked)"
        )


@contextlib.contextmanager
def _sinks(bundle: Bundle, source: Source, out: Path) -> Iterator[list[Sink]]:
    banner = banner_for(bundle.weights)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = [MaskLines(out / MASKS, bundle.weights)]
        stack.callback(sinks[0].close)
        if source.fps:
            sinks.append(OverlayVideo(out / "overlay.mp4", source.fps, banner))
        else:
            sinks.append(OverlayPictures(out / "overlay", banner))
        stack.callback(sinks[1].close)
        yield sinks


@contextlib.contextmanager
def _progress(console: Console, total: int | None, what: str) -> Iterator[Any]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def _stop_on_interrupt(loop: Loop, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C ends the run after the frames under way, with complete files; the second aborts."""
    running = asyncio.get_running_loop()

    def stop() -> None:
        running.remove_signal_handler(signal.SIGINT)
        loop.stop()
        say("stopping after the frames under way")

    running.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        running.remove_signal_handler(signal.SIGINT)
