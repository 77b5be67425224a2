"""`pedsam audit`."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import click

from evaluation.audit.audit import audit
from evaluation.audit.options import MOST_OPERATORS, AuditOptions
from evaluation.audit.report import print_report
from runtime.options import BUNDLE, KEEP, KEEP_BOXES, KEEP_FOR_SESSION, KEEP_PX
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.options import PATH, Count, Number, warn_of_idle_options
from stages.tile_code import RGB, TileCode


class Words(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Comma-separated words without a doubled one, as a tuple."""

    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(words):
            self.fail(f"{value!s:.40} is no list of words with commas between them", param, ctx)
        return tuple(dict.fromkeys(words))


class Counts(Words):
    """Comma-separated numbers of operators."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        words = super().convert(value, param, ctx)
        counts = [int(word) for word in words if re.fullmatch("[0-9]{1,4}", word)]
        if len(counts) < len(words) or not all(1 <= count <= MOST_OPERATORS for count in counts):
            self.fail(f"{value!s:.40} is no list like 1,2,3 of 1 to {MOST_OPERATORS} operators", param, ctx)
        return tuple(counts)


@click.command("audit", params=[BUNDLE, KEEP, KEEP_PX, KEEP_BOXES, KEEP_FOR_SESSION])
@click.option(
    "--model",
    type=click.Choice(sorted(GEOMETRIES)),
    help="Instead of a bundle: a model's canvas and windows, of which what leaves follows alone.",
)
@click.option("--sites", type=PATH, help="sites.toml, for its operators and caps; no site is contacted.")
@click.option(
    "--operators",
    type=Counts(),
    help="Numbers of operators with the default caps  [default: 1,2,3,4,6 without --sites and --partition]",
)
@click.option("--partition", "partitions", type=Words(), help="1x1: one has all; 5x5: an operator a window.")
@click.option(
    "--coalition", type=Count(1), default=1, show_default=True, help="So many operators pool what they hold."
)
@click.option(
    "--tiles", type=Words(), help="Codes to compare: rgb,dct:10/3,dct:6/3  [default: the bundle's own]"
)
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="A folder of pictures, with label maps NAME.png or without; a COCO instance JSON; a video.",
)
@click.option("--sequence", is_flag=True, help="The pictures of the folder are the frames of a video.")
@click.option(
    "--recognise/--no-recognise", default=True, show_default=True, help="Look for faces and words: slower."
)
@click.option(
    "--mae",
    type=PATH,
    help="Folder of a ViTMAE of transformers, which fills what was not given; nothing is fetched.",
)
@click.option(
    "--failures",
    type=Number(0, 1),
    default=0.005,
    show_default=True,
    help="Share of requests that fail or are late.",
)
@click.option(
    "--limit",
    type=Count(1),
    help="So many pictures, drawn by --seed; of a video the first  [default: all, 50]",
)
@click.option("--sheet/--no-sheet", default=True, show_default=True, help="Draw what operators hold.")
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Of whatever is drawn.")
@click.option("--out", type=PATH, required=True, help="Directory for audit.json and sheet.png.")
def command(
    bundle: Path | None,
    model: str | None,
    tiles: tuple[str, ...] | None,
    **options: Any,
) -> None:
    """What could each operator learn from what leaves the edge?

    Every site is played in this process, and the real ones are not contacted. A figure is that of some
    operator: the one that learns most.
    """
    warn_of_idle_options({"keep_px": "keep"})
    if bundle and model:
        raise InputError("--model is audited without a bundle; give --bundle or --model")
    chosen = AuditOptions(**_subject(bundle, model, tiles), **_given(options))
    console = make_console()
    report = asyncio.run(audit(chosen, console))
    print_report(console, report)


def _subject(path: Path | None, model: str | None, tiles: tuple[str, ...] | None) -> dict[str, Any]:
    """What is audited, as arguments of AuditOptions."""
    codes = tuple(TileCode.parse(name) for name in tiles) if tiles else ()
    if model:
        geometry = GEOMETRIES[model]
        return {
            "geometry": geometry,
            "tiles": codes or (RGB,),
            "components": geometry.dim,
            "described": f"{model} (no weights)",
        }
    bundle = Bundle.load(path or shipped_bundle())
    return {
        "geometry": bundle.geometry,
        "tiles": codes or (bundle.tiles,),
        "components": bundle.components,
        "described": bundle.description,
        "bundle": bundle.path,
    }


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those that were left out."""
    return {name: value for name, value in options.items() if value is not None}
