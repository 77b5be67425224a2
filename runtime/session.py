"""A run from options to summary: the one place where the edge's parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from runtime.assignment import default_cap
from runtime.client import SiteClient, wire_formats
from runtime.dispatch import Dispatcher, LocalWindows
from runtime.ledger import ExposureLedger
from runtime.loop import Loop
from runtime.prompts import Prompts
from runtime.sinks import MaskLines, OverlayPictures, OverlayVideo, Sink, banner_for, writing
from runtime.sites import SiteConfig, operator_caps, read_sites
from runtime.sources import Source
from runtime.summary import summarise, write_summary
from runtime.verify import iou_with_unsplit
from stages.bundle import Bundle
from stages.engine import EngineThread, engine_factories
from stages.errors import InputError

MASKS = "masks.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunOptions:
    """Options of `pedsam run`; see its help. Without `sites` every window runs locally."""

    out: Path
    sites: Path | None = None
    wire: str | None = None
    backend: str = "auto"
    threads: int | None = None
    allow_undistilled: bool = False
    accept_exposure: bool = False
    new_session: bool = False
    insecure: bool = False
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
    wire_format = _wire_format(bundle, options)
    sites = read_sites(options.sites, options.insecure) if options.sites else ()
    windows = _windows_to_send(bundle, source)
    _check_exposure(sites, options)
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    with _open_ledger(sites, len(windows), options) as ledger:
        summary = await _run(bundle, source, prompts, options, console, sites, windows, wire_format, ledger)
    write_summary(options.out / SUMMARY, summary)
    if options.verify:
        summary["iou_with_unsplit"] = await _verify(bundle, source, prompts, options, console)
        write_summary(options.out / SUMMARY, summary)
    return summary


async def _run(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    options: RunOptions,
    console: Console,
    sites: Sequence[SiteConfig],
    windows: frozenset[int],
    wire_format: str,
    ledger: ExposureLedger,
) -> dict[str, Any]:
    async with _engines(bundle, options) as engines:
        local = LocalWindows(bundle, engines, wire_format) if "window" in engines else None
        clients = [SiteClient(site, bundle, wire_format) for site in sites]
        say = partial(console.print, markup=False, highlight=False)  # sites word part of it
        dispatcher = Dispatcher(bundle, clients, ledger, local, say)
        with (
            _progress(console, source.count, "frames") as progress,
            _sinks(bundle, source, options.out) as sinks,
        ):
            async with dispatcher.connected(windows):
                loop = Loop(bundle.geometry, engines, dispatcher, prompts, sinks, progress)
                with _stop_on_interrupt(loop, say):
                    measured = await loop.run(source)
    return summarise(bundle, dispatcher, measured, wire_format)


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


def _wire_format(bundle: Bundle, options: RunOptions) -> str:
    offered = wire_formats(bundle)
    if options.wire is not None and options.wire not in offered:
        raise InputError(f"this bundle does not offer --wire {options.wire}, only {' and '.join(offered)}")
    return options.wire or offered[0]


def _windows_to_send(bundle: Bundle, source: Source) -> frozenset[int]:
    sizes = source.sizes()
    return frozenset(window for size in sizes for window in bundle.geometry.windows_with_picture(*size))


def _check_exposure(sites: Sequence[SiteConfig], options: RunOptions) -> None:
    operators = {site.operator for site in sites if not site.spare}
    if len(operators) == 1 and not options.accept_exposure:
        raise InputError(
            f"operator {min(operators)} alone would see the whole picture; add sites of other operators, or "
            "give --accept-exposure"
        )


@contextlib.contextmanager
def _open_ledger(sites: Sequence[SiteConfig], windows: int, options: RunOptions) -> Iterator[ExposureLedger]:
    """The ledger beside sites.toml, held by this process alone while the block runs."""
    operators = {site.name: site.operator for site in sites}
    regular = {site.operator for site in sites if not site.spare}
    caps = operator_caps(sites, default_cap(windows, len(regular))) if sites else {}
    path = options.sites.with_suffix(".ledger.json") if options.sites else None
    with _held_alone(path):
        yield ExposureLedger.open(path, operators, caps, options.new_session)


@contextlib.contextmanager
def _held_alone(ledger: Path | None) -> Iterator[None]:
    """Two runs that wrote one ledger would each forget what the other showed; the second is refused."""
    if ledger is None:
        yield
        return
    path = ledger.with_suffix(".lock")
    try:
        file = path.open("w")
    except OSError as exc:
        raise InputError(
            f"cannot write {path} ({exc.strerror}); the exposure ledger lies beside the sites file, in a "
            "folder that can be written"
        ) from exc
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InputError(
                f"another run uses the exposure ledger {ledger}; wait until it has ended"
            ) from exc
        yield


@contextlib.asynccontextmanager
async def _engines(bundle: Bundle, options: RunOptions) -> AsyncIterator[EngineThread]:
    names = ["global", "decoder"]
    if options.sites is None or bundle.has("window"):
        names.append("window")
    async with EngineThread(engine_factories(bundle, names, options.backend, options.threads)) as engines:
        yield engines


@contextlib.contextmanager
def _sinks(bundle: Bundle, source: Source, out: Path) -> Iterator[list[Sink]]:
    banner = banner_for(bundle.weights)
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
