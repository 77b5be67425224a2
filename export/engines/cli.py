"""`pedsam build`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from export.engines import report
from export.engines.build import (
    CHOICES,
    Row,
    Target,
    build_stage,
    stages_of,
    target_for,
)
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.engines.devices import visible_device
from stages.engines.plans import ENGINES, IMAGE_VARIABLE
from stages.errors import InputError
from stages.files import replace_file
from stages.options import Count, PathType, bundle_option, warn_of_idle_options
from stages.places import PLACES
from stages.progress import shown_progress

PARSE_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")


@click.command("build", params=[bundle_option("Bundle whose stages to build")])
@click.option(
    "--for",
    "choice",
    type=click.Choice((*PLACES, *CHOICES)),
    default="available",
    show_default=True,
    help="site: window; edge: head where there is one, global, decoder and, if the bundle holds it, window; "
    "available: those of these that the bundle holds; all: also `whole`, for --verify.",
)
@click.option(
    "--workspace-mb",
    type=Count(1),
    help="Scratch memory for the builder's first try  [default: on a Jetson by what is free, else all]",
)
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
@click.option(
    "--json",
    "report_file",
    type=PathType(dir_okay=False, allow_dash=True),
    help="Also write the table as JSON, failures included; -: to standard output, and all else to standard "
    "error.",
)
def command(
    bundle: Path | None,
    choice: str,
    workspace_mb: int | None,
    parse_only: bool,
    target: str,
    report_file: Path | None,
) -> None:
    """Build TensorRT engines of BUNDLE's stages, on the device that will run them."""
    warn_of_idle_options({"target": "parse_only"}, say=partial(click.echo, err=True))
    console = make_console(stderr=report_file == Path("-"))
    loaded = Bundle.load(bundle or shipped_bundle())
    names = stages_of(loaded, choice)
    chosen = target_for(
        None if parse_only else visible_device(), target if parse_only else None, workspace_mb
    )
    build_stages(console, loaded, names, chosen, report_file)


def build_stages(
    console: Console, bundle: Bundle, names: Sequence[str], target: Target, report_file: Path | None = None
) -> None:
    """Build or reuse each stage and say so, then a table and whether the engines fit in memory together.

    `report_file` gets the same as JSON when that ends, with an error too.
    """
    what = str(target.device) if target.present else f"{target.device.sm}, nothing is kept"
    console.print(f"{bundle.description} for {what}, with {target.library} {target.version}")
    rows: list[Row] = []
    failed = None
    try:
        for name in names:
            rows.append(_one(console, bundle, name, target))
    except BaseException as exc:
        failed = {"stage": names[len(rows)], "error": str(exc) or type(exc).__name__}
        raise
    finally:
        if report_file is not None:
            image = os.environ.get(IMAGE_VARIABLE, "")
            _write(report_file, report.as_json(bundle, target, image, rows, failed))
    console.print(report.table(rows))
    console.print(report.fit(rows, target))
    if target.present:
        console.print(f"engines in {bundle.path / ENGINES / target.device.folder}")


def _write(path: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, indent=1) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        replace_file(path, text)
    except OSError as exc:
        raise InputError(f"--json {path} cannot be written ({exc.strerror}); give another file") from exc


def _one(console: Console, bundle: Bundle, name: str, target: Target) -> Row:
    def note(sentence: str) -> None:
        console.print(f"{name}: {sentence}")

    with shown_progress(console, name) as progress:
        row = build_stage(bundle, name, target, progress, note)
    if row.reason is None:
        console.print(f"{name}: reused, built for this bundle, device and TensorRT")
    else:
        console.print(f"{name}: built in {row.record.build_s:.1f} s ({row.reason})")
    return row
