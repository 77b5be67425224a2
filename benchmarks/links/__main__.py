"""`python -m benchmarks.links`."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.fixed_latency import Profile
from benchmarks.links.arithmetic import tensor_bytes
from benchmarks.links.pairs import Contender, Entry, Plan, contenders, links, over_link
from benchmarks.links.records import write_records
from benchmarks.machine import commit, describe
from runtime.pipeline import PipelineOptions
from runtime.sites.client import REQUEST_BYTES, choose_wire
from stages.bundle import Bundle
from stages.errors import InputError

RATES = ("20/100", "100/100", "1000/1000")
ROUND_TRIPS_MS = (5.0, 20.0, 80.0)
RECORDS = "vit_b,dct:10/3,192,int8"
BYTES = "with ,BYTES the most bytes of windows that share a request"


def _named(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """NAME=REST of each."""
    pairs = [value.partition("=") for value in values]
    if wrong := [name for name, _, rest in pairs if not name or not rest]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=...: give today=bundles/vit_b")
    return {name: rest for name, _, rest in pairs}


def _rates(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> list[tuple[float, float]]:
    """UP/DOWN of each, in Mbit/s."""
    try:
        rates = [(float(up), float(down)) for up, _, down in (value.partition("/") for value in values)]
    except ValueError as exc:
        raise click.BadParameter("expected UP/DOWN in Mbit/s: 20/100") from exc
    if not all(up > 0 and down > 0 for up, down in rates):
        raise click.BadParameter("rates must be above 0")
    return rates


@click.command()
@click.option(
    "--bundle", "folders", multiple=True, callback=_named, help=f"NAME=FOLDER[,fp16|int8]; {BYTES}."
)
@click.option(
    "--records",
    multiple=True,
    callback=_named,
    help=f"NAME={RECORDS}: without weights, for a model of any size; {BYTES}.",
)
@click.option("--rate", "rates", multiple=True, default=RATES, callback=_rates, show_default=True)
@click.option("--round-trip-ms", multiple=True, type=float, default=ROUND_TRIPS_MS, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=15.0, show_default=True, help="Of one run.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--tile-ms", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True)
@click.option("--global-ms", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True)
@click.option("--decoder-ms", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True)
@click.option("--in-flight", type=click.IntRange(1), default=PipelineOptions().in_flight, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    folders: dict[str, str],
    records: dict[str, str],
    rates: list[tuple[float, float]],
    round_trip_ms: Sequence[float],
    seconds: float,
    repeats: int,
    tile_ms: float,
    global_ms: float,
    decoder_ms: float,
    in_flight: int,
    out: Path,
) -> None:
    """Measure two or more bundles over every line in turn; the first is what the others are compared with."""
    profile = Profile(tile_ms / 1e3, global_ms / 1e3, decoder_ms / 1e3)
    plan = Plan(profile, in_flight, seconds, repeats)
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {name: _opened(text) for name, text in folders.items()}
        bundles |= {name: _recorded(text, Path(scratch) / name) for name, text in records.items()}
        if len(bundles) < 2:
            raise click.UsageError("give two bundles or more, with --bundle or --records")
        asyncio.run(_measure(bundles, plan, rates, round_trip_ms, out))


def _opened(text: str) -> Entry:
    """FOLDER[,WIRE[,BYTES]]."""
    folder, _, rest = text.partition(",")
    wire_format, _, request_bytes = rest.partition(",")
    bundle = Bundle.load(folder)
    return Entry(bundle, choose_wire(bundle, wire_format or None), _bytes(request_bytes))


def _recorded(text: str, path: Path) -> Entry:
    """MODEL,TILES,COMPONENTS,WIRE[,BYTES]."""
    parts = text.split(",")
    if len(parts) not in (4, 5) or not parts[2].isdigit():
        raise InputError(f"{text!r:.80} is not MODEL,TILES,COMPONENTS,WIRE: {RECORDS}")
    model, tiles, components, wire_format, *request_bytes = parts
    bundle = write_records(path, model, tiles, int(components))
    return Entry(bundle, choose_wire(bundle, wire_format), _bytes("".join(request_bytes)))


def _bytes(text: str) -> int:
    if text and not text.isdigit():
        raise InputError(f"{text!r:.80} is no number of bytes: {REQUEST_BYTES}")
    return int(text or REQUEST_BYTES)


async def _measure(
    bundles: dict[str, Entry],
    plan: Plan,
    rates: Sequence[tuple[float, float]],
    round_trips_ms: Sequence[float],
    out: Path,
) -> None:
    """The file is written after every line, so that a run broken off leaves what it has measured."""
    rows: list[dict[str, Any]] = []
    async with contenders(bundles, plan.profile) as compared:
        for link in links(rates, round_trips_ms):
            rows += await over_link(compared, link, plan)
            _write(out, _facts(compared, plan) | {"rows": rows})
            measured = [f"{row['bundle']} {row['fps']} fps" for row in rows[-len(compared) :]]
            click.echo(f"{link}: {', '.join(measured)}", err=True)
    Console().print(table(rows))


def _facts(compared: Sequence[Contender], plan: Plan) -> dict[str, Any]:
    return {
        "machine": describe(),
        "commit": commit(),
        "engines_s": {
            key: value for key, value in asdict(plan.profile).items() if key.endswith("_s") and value
        },
        "in_flight": plan.in_flight,
        "repeats": plan.repeats,
        "bundles": {each.name: _bundle_facts(each) for each in compared},
    }


def _bundle_facts(contender: Contender) -> dict[str, Any]:
    traffic = tensor_bytes(contender.bundle, contender.wire_format)
    return {
        "model": contender.bundle.description,
        "trained_on": contender.bundle.trained_on,
        "tiles": contender.bundle.tiles.name,
        "components": contender.bundle.components,
        "wire": contender.wire_format,
        "request_bytes": contender.request_bytes,
        "windows_per_frame": contender.windows,
        "tensor_bytes_up_per_frame": traffic.up,
        "tensor_bytes_down_per_frame": traffic.down,
    }


def _write(out: Path, results: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What a person looks at: a line of the table for each line and bundle."""
    shown = Table(
        "line", "bundle", "frames/s", "latency p50, p95", "kB up, down a frame", "times the first", "limit"
    )
    for row in rows:
        ratio = row["times_first_fps"]
        latency = row["latency_ms"]
        shown.add_row(
            row["link"],
            row["bundle"],
            f"{row['fps']:.2f}",
            f"{latency['p50']:.0f}, {latency['p95']:.0f} ms",
            f"{row['bytes_up_per_frame'] / 1e3:.1f}, {row['bytes_down_per_frame'] / 1e3:.1f}",
            f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['largest']:.2f})",
            f"{row['lowest_bound']}, {row['share_of_bound']:.0%} of it",
        )
    return shown


if __name__ == "__main__":
    main()
