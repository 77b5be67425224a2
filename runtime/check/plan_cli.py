"""`pedsam plan`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.check.json_file import check_json_file, write_json_file
from runtime.check.plan import OWN, Line, Outlook, look_ahead, measure_line
from runtime.check.prediction import NOT_HERE, windows_kept
from runtime.options import BUNDLE, INSECURE, KEPT, PRICE_PER_GB, WIRE, FrameSize, inputs_of, sites_option
from runtime.run_files import files_read
from runtime.sites.client import choose_wire
from runtime.sites.config import SiteConfig, read_sites
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.errors import InputError, printable
from stages.options import PATH, Number

DEFAULT_ROUND_TRIP_MS = 20.0


@click.command("plan", params=[BUNDLE, sites_option(required=True), WIRE, INSECURE, PRICE_PER_GB, KEPT])
@click.option("--up", type=Number(0, min_open=True), help="Megabits a second of the line to the sites.")
@click.option("--down", type=Number(0, min_open=True), help="Megabits a second of the line from the sites.")
@click.option(
    "--rtt",
    type=Number(0),
    help=f"Milliseconds there and back  [default: {DEFAULT_ROUND_TRIP_MS:g} with --up]",
)
@click.option(
    "--frame",
    "size",
    type=FrameSize(),
    default="1920x1080",
    show_default=True,
    help="Plan for such frames.",
)
@click.option("--json", "json_path", type=PATH, help="Write all that was found to a file.")
def command(
    bundle: Path | None,
    sites: Path,
    wire: str | None,
    insecure: bool,
    price_per_gb: float | None,
    kept: int,
    up: float | None,
    down: float | None,
    rtt: float | None,
    size: tuple[int, int],
    json_path: Path | None,
) -> None:
    """Which code of the tiles, which wire and how many frames a second a line and these sites allow.

    Without --up and --down it measures the line with probes and noise; no tile leaves for it. `pedsam check`
    says what this machine allows.
    """
    console = make_console()
    loaded = Bundle.load(bundle or shipped_bundle())
    configs = read_sites(sites, insecure)
    check_json_file(
        json_path, chain(inputs_of(click.get_current_context()), files_read(loaded, sites, configs))
    )
    if (up is None) != (down is None):
        raise InputError("give both --up and --down, or neither to have the line measured")
    chosen, here = choose_wire(loaded, wire), windows_kept(loaded.geometry, size, kept)
    if up is not None and down is not None:
        line = Line(up, down, (DEFAULT_ROUND_TRIP_MS if rtt is None else rtt) / 1e3)
        outlook = look_ahead(loaded, configs, size, line, price_per_gb=price_per_gb, wire=chosen, kept=here)
    else:
        line, tiles_per_s, failures = _measured(console, loaded, configs, chosen)
        line = line if rtt is None else replace(line, round_trip_s=rtt / 1e3)
        outlook = look_ahead(
            loaded, configs, size, line, tiles_per_s, price_per_gb, failures, wire=chosen, kept=here
        )
    print_outlook(console, outlook)
    write_json_file(json_path, to_json(outlook))


def _measured(
    console: Console, bundle: Bundle, sites: tuple[SiteConfig, ...], wire: str
) -> tuple[Line, dict[str, float], list[str]]:
    with console.status("measuring the line"):
        return asyncio.run(
            measure_line(bundle, sites, wire, tell=lambda line: console.print(Text(printable(line))))
        )


def print_outlook(console: Console, outlook: Outlook) -> None:
    """The line, a row for each code, and what is not in it."""
    for text in _lines(outlook):
        console.print(Text(printable(text)))
    console.print(_table(outlook))
    if (advice := outlook.advice) is not None:
        what = f"{advice.tiles} with {advice.components} components, {advice.wire}"
        console.print(Text(f"the richest code whose bytes hold back no frame: {what}"))
    for note in outlook.notes:
        console.print(Text(printable(note), style="yellow"))


def _lines(outlook: Outlook) -> Iterator[str]:
    line, shares, (height, width) = outlook.line, outlook.shares, outlook.size
    yield (
        f"line: {line.up_mbit:.4g} Mbit/s up, {line.down_mbit:.4g} Mbit/s down, "
        f"{line.round_trip_s * 1e3:.1f} ms there and back ({line.found})"
    )
    named = ", ".join(f"{count} to site {name}" for name, count in shares.sites.items())
    yield f"windows of a frame of {width} x {height} sent: {named}"
    if shares.kept:
        up, down = (size / 1e3 for size in outlook.bytes_saved)
        yield (
            f"{shares.kept} windows of every frame are kept: {up:.1f} kB up and {down:.1f} kB down less with "
            f"this bundle; `pedsam check --kept {shares.kept}` says what they cost the edge"
        )
    if shares.at_edge:
        here = "this machine runs them" if outlook.bundle.has("window") else NOT_HERE.format(shares.least_cap)
        yield f"{shares.at_edge} windows of every frame fit under no cap: {here}"
    if outlook.sites_fps is not None:
        wire = outlook.allowed[0].wire
        yield f"the sites allow {outlook.sites_fps:.1f} frames/s with this bundle and {wire} over this line"
    if outlook.bundle.head_blocks:
        yield f"this bundle sends {outlook.bundle.sent}; codes of tiles are for bundles without --head-blocks"
    else:
        yield "other codes are by formula: `pedsam export` makes them, `pedsam evaluate` says what masks lose"


def _table(outlook: Outlook) -> Table:
    priced = outlook.allowed[0].price_an_hour is not None
    names = [
        "tiles",
        "components",
        "wire",
        "kB up",
        "kB down",
        "frames/s",
        "limited by",
        "GB/h up",
        "GB/h down",
    ]
    table = Table(*names, *(["price/h"] if priced else []))
    for each in outlook.allowed:
        cells = [
            each.tiles,
            str(each.components),
            each.wire,
            f"{each.size.up / 1e3:.1f}",
            f"{each.size.down / 1e3:.1f}",
            f"{each.fps:.1f}",
            each.limited_by,
            f"{each.gigabytes_up:.2f}",
            f"{each.gigabytes_down:.2f}",
        ]
        if each.price_an_hour is not None:
            cells.append(f"{each.price_an_hour:.2f}")
        table.add_row(*map(Text, cells), style="bold" if each.tiles == OWN else "")
    return table


def to_json(outlook: Outlook) -> str:
    """All of it; times in seconds, bytes of a frame with heads, rates in megabits a second."""
    return json.dumps(
        {
            "model": outlook.bundle.geometry.name,
            "site_digest": outlook.bundle.site_digest,
            "frame": {"height": outlook.size[0], "width": outlook.size[1]},
            "line": asdict(outlook.line),
            "windows": dict(outlook.shares.sites),
            "windows_at_edge": outlook.shares.at_edge,
            "windows_kept": outlook.shares.kept,
            "bytes_saved": dict(zip(("up", "down"), outlook.bytes_saved, strict=True)),
            "sites_fps": outlook.sites_fps,
            "codes": [asdict(each) for each in outlook.allowed],
            "notes": outlook.notes,
        },
        indent=1,
    )
