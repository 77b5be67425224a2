"""`pedsam build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.build import PLACES, Row, Target, build_stage, expected_peak, stages_of, target_for
from stages.bundle import Bundle, shipped_bundle
from stages.devices import free_bytes, visible_device
from stages.plans import ENGINES

PARSE_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
# CUDA's context and TensorRT's runtime, which a process takes once for all its engines. An estimate.
RUNTIME_BYTES = 600_000_000


@click.command("build")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="[default: the mini model that comes with pedsam]",
)
@click.option(
    "--for",
    "place",
    type=click.Choice(tuple(PLACES)),
    default="held",
    show_default=True,
    help="site: window; edge: global, decoder and, if held, window; held: those of the three that are there; "
    "all: also `whole`, for --verify.",
)
@click.option("--workspace-mb", type=click.IntRange(1), help="Scratch memory for the builder  [default: all]")
@click.option(
    "--parse-only",
    is_flag=True,
    help="Without a GPU: try every stage with the parser and builder of TensorRT for RTX; keeps nothing.",
)
@click.option(
    "--target",
    type=click.Choice(PARSE_TARGETS),
    default="sm_86",
    show_default=True,
    help="Compute capability that --parse-only builds for.",
)
def command(
    bundle_path: Path | None, place: str, workspace_mb: int | None, parse_only: bool, target: str
) -> None:
    """Build TensorRT engines of BUNDLE's stages, on the device that will run them."""
    console = Console(highlight=False, soft_wrap=True)
    bundle = Bundle.load(bundle_path or shipped_bundle())
    names = stages_of(bundle, place)
    chosen = target_for(
        None if parse_only else visible_device(), target if parse_only else None, workspace_mb
    )
    build_stages(console, bundle, names, chosen)


def build_stages(console: Console, bundle: Bundle, names: Sequence[str], target: Target) -> None:
    """Build or reuse each stage and say so, then a table and whether the engines fit in memory together."""
    what = str(target.device) if target.present else f"{target.device.sm}, nothing is kept"
    console.print(f"{bundle.description} for {what}, with {target.library} {target.version}")
    rows = [_one(console, bundle, name, target) for name in names]
    console.print(_table(rows))
    console.print(_fit(rows, target))
    if target.present:
        console.print(f"engines in {bundle.path / ENGINES / target.device.folder}")


def _one(console: Console, bundle: Bundle, name: str, target: Target) -> Row:
    if target.present:
        _warn_of_memory(console, name, expected_peak(bundle, name, target), free_bytes(target.device))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"building {name}", total=1.0)
        row = build_stage(bundle, name, target, lambda done: progress.update(task, completed=done))
    if row.reason is None:
        console.print(f"{name}: reused, built for this bundle, device and TensorRT")
    else:
        console.print(f"{name}: built in {row.record.build_s:.1f} s ({row.reason})")
    return row


def _warn_of_memory(console: Console, name: str, expected: int, free: int) -> None:
    if expected > free:
        console.print(
            f"{name}: building may take {_gb(expected)}, TensorRT itself included, and {_gb(free)} are free; "
            "if it is killed, add swap, turn the desktop off or give a lower --workspace-mb"
        )


def _table(rows: Sequence[Row]) -> Table:
    table = Table()
    for heading in ("stage", "precision", "build", "engine", "weights", "activations", "builder's peak"):
        table.add_column(heading, justify="left" if heading in ("stage", "precision") else "right")
    for row in rows:
        record = row.record
        sizes = (record.plan_bytes, record.weights_bytes, record.activation_bytes, record.peak_bytes)
        took = f"{record.build_s:.1f} s" if row.reason else "reused"
        table.add_row(row.stage, record.key.precision, took, *map(_mb, sizes))
    return table


def _fit(rows: Sequence[Row], target: Target) -> str:
    """Whether the engines fit in one process together, and what the largest build took."""
    needed = RUNTIME_BYTES + sum(
        (row.record.weights_bytes or row.record.plan_bytes) + (row.record.activation_bytes or 0)
        for row in rows
    )
    together = f"running them together takes about {_gb(needed)}, CUDA and TensorRT included"
    if not target.present:
        return together
    free = free_bytes(target.device)
    return f"{together}; {_gb(free)} are free: {'fits' if needed <= free else 'DOES NOT FIT'}"


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
