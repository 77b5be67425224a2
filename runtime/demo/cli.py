"""`pedsam demo`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from runtime.demo.demo import run_demo, run_live_demo
from runtime.demo.next_steps import next_steps
from runtime.options import WIRE, preview_option
from runtime.results.summary import check_done, print_summary
from runtime.watchers import preview_watcher
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.options import PATH, Count, bundle_option, warn_of_idle_options


@click.command(
    "demo",
    params=[
        bundle_option("Bundle with site and edge stages"),
        WIRE,
        preview_option("Pan without an end and serve a page on which to click on objects."),
    ],
)
@click.option("--out", type=PATH, default=Path("out/demo"), show_default=True)
@click.option("--frames", type=Count(2), default=24, show_default=True)
def command(bundle: Path | None, out: Path, frames: int, wire: str | None, preview: int | None) -> None:
    """Three sites on loopback, a camera pan over photographs, masks in OUT."""
    warn_of_idle_options({}, {"frames": ("preview", range(65536))})
    console = make_console()
    loaded = Bundle.load(bundle or shipped_bundle())
    if preview is None:
        summary = asyncio.run(run_demo(loaded, out, frames, wire, console))
        console.print(f"results in {out}: overlay/, masks.jsonl, summary.json")
    else:
        watcher = preview_watcher(loaded, "127.0.0.1", preview)
        summary = asyncio.run(run_live_demo(loaded, out, wire, console, [watcher]))
    print_summary(console, summary)
    check_done(summary)
    if preview is None:
        console.print(next_steps(), markup=False, highlight=False, soft_wrap=True)
