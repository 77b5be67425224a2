"""`pedsam bench`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from media.pictures import write_picture
from runtime.bench.bench import BenchOptions, bench, check_possible
from runtime.bench.measured import Measured
from runtime.bench.picture import picture
from runtime.bench.report import Report, print_report, to_json
from runtime.edge import EdgeOptions, check_exposure
from runtime.edge_toml import config_option
from runtime.options import BUNDLE, ENCODER, INSECURE, SITES, WIRE, FrameSize, inputs_of, values_of
from runtime.run_files import files_read
from runtime.sites.client import choose_wire
from runtime.sites.config import SiteConfig, read_sites
from stages.allocator import give_memory_back
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.distinct import NamedFile, check_distinct
from stages.errors import InputError, printable
from stages.files import check_folder, check_replaceable, refuse_file, replace_file, writing
from stages.network import is_loopback
from stages.options import BACKEND, IDLE_THREADS, PATH, THREADS, Count, Number, warn_of_idle_options
from stages.words import some_of

JSON, PICTURE = "bench.json", "bench.png"
_QUIET = 0.3  # of load a core, below which a machine has nothing else to do


@click.command(
    "bench",
    params=[
        config_option("whose bundle, sites and engines are measured."),
        *(BUNDLE, SITES, WIRE, BACKEND, THREADS, ENCODER, INSECURE),
    ],
)
@click.option(
    "--frame",
    "size",
    type=FrameSize(),
    default="1920x1080",
    show_default=True,
    help="Measure with such frames.",
)
@click.option(
    "--runs",
    type=Count(1),
    default=BenchOptions.runs,
    show_default=True,
    help="Frames of each way, at most.",
)
@click.option(
    "--seconds",
    type=Number(0, 3600, min_open=True),
    default=BenchOptions.seconds,
    show_default=True,
    help="Of each way, about, beside loading; three frames are measured however long they take.",
)
@click.option("--out", "folder", type=PATH, help=f"Directory for {JSON} and {PICTURE}.")
def command(bundle: Path | None, folder: Path | None, **options: Any) -> None:
    """How fast this machine is: all local, and with --sites offloaded to these, step by step.

    Measures with noise made here: no camera is opened, and sites are sent no picture.
    """
    give_memory_back()
    console = make_console()
    warn_of_idle_options({"insecure": "sites"}, IDLE_THREADS)
    loaded = Bundle.load(bundle or shipped_bundle())
    edge = EdgeOptions(**values_of(EdgeOptions, options))
    chosen = BenchOptions(**values_of(BenchOptions, options))
    sites = read_sites(edge.sites, edge.insecure) if edge.sites else ()
    check_possible(loaded, edge)
    _check_out(folder, loaded, edge, sites)
    wire, notes = choose_wire(loaded, edge.wire), [*_busy(), *_notes(sites)]
    report = Report(loaded, wire, chosen.size, _measured(console, loaded, sites, edge, chosen), notes)
    print_report(console, report)
    if folder is not None:
        _write(folder, report)
        console.print(Text(f"{printable(folder / JSON)} and {printable(folder / PICTURE)} hold this"))


def _check_out(folder: Path | None, bundle: Bundle, edge: EdgeOptions, sites: tuple[SiteConfig, ...]) -> None:
    """Raise InputError where results cannot be written, or would take the place of what is read."""
    if folder is None:
        return
    refuse_file(folder)
    files = [folder / JSON, folder / PICTURE]
    read = chain(inputs_of(click.get_current_context()), files_read(bundle, edge.sites, sites))
    check_distinct([NamedFile("--out", file) for file in files], read)
    with writing(folder):
        check_folder(folder)
    for file in files if folder.exists() else ():
        with writing(file):
            check_replaceable(file)


def _measured(
    console: Console,
    bundle: Bundle,
    sites: tuple[SiteConfig, ...],
    edge: EdgeOptions,
    options: BenchOptions,
) -> list[Measured]:
    with console.status("") as status:
        return asyncio.run(
            bench(
                bundle,
                sites,
                edge,
                options,
                say=lambda doing: status.update(Text(printable(doing))),
                tell=lambda line: console.print(Text(printable(line))),
            )
        )


def _busy() -> Iterator[str]:
    """To be asked before anything is measured."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > _QUIET * cores:
        yield (
            f"other programs kept this machine busy (a load of {load:.1f} on {cores} cores when it began): "
            "these figures are of what they left"
        )


def _notes(sites: tuple[SiteConfig, ...]) -> Iterator[str]:
    if here := [site.name for site in sites if is_loopback(urlsplit(site.url).hostname or "")]:
        yield (
            f"{'site' if len(here) == 1 else 'sites'} {some_of(here)} on this machine (loopback) took its "
            "cores meanwhile: what offloading gains shows with sites elsewhere"
        )
    try:
        check_exposure(sites, accept=False)
    except InputError as exc:
        yield f"a run refuses these sites: {exc}"


def _write(folder: Path, report: Report) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / JSON):
        replace_file(folder / JSON, to_json(report) + "\n")
    with writing(folder / PICTURE):
        made = f"{report.machine.get('board') or report.machine['cpu']}, {report.machine['date']}"
        write_picture(folder / PICTURE, picture(report.ways, f"{report.title}; {made}"))
