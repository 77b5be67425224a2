"""`pedsam demo`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console

from runtime.demo import run_demo, run_live_demo
from runtime.summary import print_summary
from runtime.watch import preview_watcher
from stages.bundle import Bundle, shipped_bundle


@click.command("demo")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle with site and edge stages  [default: the mini model that comes with pedsam]",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--frames", type=click.IntRange(2), default=24, show_default=True)
@click.option("--wire", type=click.Choice(["fp16", "int8"]), help="What sites answer with  [default: fp16]")
@click.option(
    "--preview",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Pan without an end and serve a page on which to click on objects.",
)
def command(bundle: Path | None, out: Path, frames: int, wire: str | None, preview: int | None) -> None:
    """Three sites on loopback, a camera pan over photographs, masks in OUT."""
    console = Console()
    loaded = Bundle.load(bundle or shipped_bundle())
    if preview is None:
        summary = asyncio.run(run_demo(loaded, out, frames, wire, console))
        console.print(f"results in {out}: overlay/, masks.jsonl, summary.json")
    else:
        watcher = preview_watcher(loaded, "127.0.0.1", preview)
        summary = asyncio.run(run_live_demo(loaded, out, wire, console, [watcher]))
    print_summary(console, summary)
