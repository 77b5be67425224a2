"""`pedsam check`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from runtime.check import CheckOptions, Report, check_sites
from runtime.check_report import print_report, to_json
from runtime.sinks import writing
from runtime.sites import SiteConfig, read_sites
from stages.bundle import Bundle, shipped_bundle
from stages.engine import BACKENDS


class Size(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Width and height in pixels, like 1920x1080; as (height, width)."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        width, _, height = str(value).partition("x")
        if not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 15 for part in (width, height)):
            self.fail(f"{value!r} is no size in pixels, expected like 1920x1080", param, ctx)
        return int(height), int(width)


@click.command("check")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="Bundle with the edge's stages  [default: the mini model that comes with pedsam]",
)
@click.option("--sites", "sites_path", type=click.Path(path_type=Path), required=True, help="sites.toml")
@click.option("--frame", type=Size(), default="1920x1080", show_default=True, help="Predict for such frames.")
@click.option(
    "--wire", type=click.Choice(["fp16", "int8", "fp32"]), help="What sites answer with  [default: fp16]"
)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of an engine  [default: one a core]")
@click.option("--insecure", is_flag=True, help="Allow plain http to sites that are not on loopback.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write all that was found to a file."
)
def command(
    bundle_path: Path | None,
    sites_path: Path,
    frame: tuple[int, int],
    insecure: bool,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Look at every site before trusting a camera to it; sends probes and noise, never a picture.

    Ends with 0 when every site can be used, else with 1.
    """
    console = Console()
    bundle = Bundle.load(bundle_path or shipped_bundle())
    sites = read_sites(sites_path, insecure)
    report = _check(console, bundle, sites, CheckOptions(size=frame, **options))
    print_report(console, report)
    if json_path:
        with writing(json_path):
            json_path.write_text(to_json(report) + "\n", encoding="utf-8")
    click.get_current_context().exit(0 if report.usable else 1)


def _check(console: Console, bundle: Bundle, sites: tuple[SiteConfig, ...], options: CheckOptions) -> Report:
    with console.status("") as status:
        return asyncio.run(check_sites(bundle, sites, options, status.update))
