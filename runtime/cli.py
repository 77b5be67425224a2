"""`pedsam run`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from runtime.prompts import read_prompts
from runtime.session import RunOptions, run_session
from runtime.sources import open_source
from runtime.summary import print_summary
from stages.bundle import Bundle, shipped_bundle
from stages.engine import BACKENDS


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Comma-separated numbers, as many as `form` names: "x0,y0,x1,y1"."""

    name = "numbers"

    def __init__(self, form: str) -> None:
        self._form = form

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self._form

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != len(self._form.split(",")):
            self.fail(f"{value!r} is not {self._form} in pixels of the frame", param, ctx)
        return numbers


@click.command("run")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="Bundle with the edge's stages  [default: the mini model that comes with pedsam]",
)
@click.option(
    "--sites", type=click.Path(path_type=Path), help="sites.toml; without it every window runs here."
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    required=True,
    help="A picture, a folder of pictures or a video file.",
)
@click.option(
    "--box",
    "boxes",
    type=Numbers("x0,y0,x1,y1"),
    multiple=True,
    help="Segment what this box holds; repeatable.",
)
@click.option(
    "--point",
    "points",
    type=Numbers("x,y"),
    multiple=True,
    help="Segment what lies at this point; repeatable.",
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), help="JSON file of objects with boxes and points."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory for masks, overlays and summary.json.",
)
@click.option(
    "--wire", type=click.Choice(["fp16", "int8", "fp32"]), help="What sites answer with  [default: fp16]"
)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of an engine  [default: one a core]")
@click.option(
    "--allow-undistilled",
    is_flag=True,
    help="Run weights whose masks are not meaningful; marks every overlay.",
)
@click.option("--accept-exposure", is_flag=True, help="Let one operator alone see every window.")
@click.option("--new-session", is_flag=True, help="Forget what operators have seen so far.")
@click.option("--insecure", is_flag=True, help="Allow plain http to sites that are not on loopback.")
@click.option("--verify", is_flag=True, help="Compare every mask with the unsplit model's afterwards.")
def command(
    bundle_path: Path | None,
    source: Path,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    prompts: Path | None,
    **options: Any,
) -> None:
    """Segment pictures or a video: windows through the sites, everything else here."""
    console = Console()
    summary = asyncio.run(
        run_session(
            Bundle.load(bundle_path or shipped_bundle()),
            open_source(source),
            read_prompts(boxes, points, prompts),
            RunOptions(**options),
            console,
        )
    )
    print_summary(console, summary)
