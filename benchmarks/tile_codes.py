"""What codes of tiles cost a checkpoint: mean IoU on the same pictures, the encoder unsplit.

    python -m benchmarks.tile_codes --checkpoint build/mobile_sam.pt --data ../shared/data/heldout \\
        --limit 40 --out benchmarks/results/tile_codes_mobile_sam.json

Every picture is cut into the tiles that would travel, coded, decoded and put together again before the
encoder sees it. Rows of codes measured before stay in OUT; a run that was broken off goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import commit, describe
from evaluation.checkpoint import checkpoint_subject
from evaluation.evaluate import measure
from evaluation.masks import KINDS
from evaluation.options import EvaluateOptions
from evaluation.results import Instance
from evaluation.scenes import Survey, choose_samples, survey
from evaluation.statistics import interval95
from stages.files import replace_file
from stages.tile_code import RGB, TileCode
from training.tally import Tally

CODES = ("rgb", "dct:21/6", "dct:15/6", "dct:10/3", "dct:6/3")


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=click.IntRange(2), help="So many pictures, drawn at random  [default: all]")
@click.option("--tiles", "codes", multiple=True, default=CODES, show_default=True, help="Besides rgb.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(checkpoint: Path, data: Path, limit: int | None, codes: Sequence[str], out: Path) -> None:
    """Measure each code, and its difference from uncoded tiles, picture by picture."""
    options = EvaluateOptions(data=data, out=out, prompts=KINDS, limit=limit, sheet=False)
    names = list(dict.fromkeys((RGB.name, *codes)))
    parsed = {name: TileCode.parse(name) for name in names}
    rows = asyncio.run(_measure(checkpoint, parsed, options))
    Console().print(table(rows))


async def _measure(
    checkpoint: Path, codes: dict[str, TileCode], options: EvaluateOptions
) -> dict[str, dict[str, Any]]:
    """Rows by code; the file is written after each, with the IoU of every instance."""
    samples = await asyncio.to_thread(choose_samples, options, Tally())
    found = await survey(samples, options.data, Tally(), lambda done: None)
    facts = {
        "checkpoint": checkpoint.name,
        "data": options.data.name,
        "pictures": len(found.samples),
        "instances": found.instances,
    }
    ious = _measured_before(options.out, facts)
    for name, code in codes.items():
        if name not in ious:
            ious[name] = _ious(await _instances(checkpoint, code, found, options))
            rows = {each: row(ious[each], ious[RGB.name]) for each in ious}
            result = {"machine": describe(), "commit": commit(), **facts, "rows": rows, "ious": ious}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            replace_file(options.out, json.dumps(result) + "\n")
    return {name: row(ious[name], ious[RGB.name]) for name in codes}


def _measured_before(out: Path, facts: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """IoUs by code of an earlier run of the same checkpoint and pictures."""
    if not out.exists():
        return {}
    before = json.loads(out.read_text(encoding="utf-8"))
    same = {key: before.get(key) for key in facts} == facts
    ious: dict[str, dict[str, list[float]]] = before["ious"] if same else {}
    return ious


async def _instances(
    checkpoint: Path, code: TileCode, found: Survey, options: EvaluateOptions
) -> Sequence[Instance]:
    subject = checkpoint_subject(checkpoint, code)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(code.name, total=found.instances)
        async with subject.open(found.sizes, click.echo) as model:
            measured = await measure(
                model,
                subject.geometry,
                found.samples,
                options,
                lambda done: progress.update(task, completed=done),
            )
    return measured.instances


def _ious(instances: Sequence[Instance]) -> dict[str, list[float]]:
    """By kind of prompt, and under "picture" the number of each instance's picture."""
    by_kind = {kind: [round(each.ious[kind], 5) for each in instances] for kind in KINDS}
    return by_kind | {"picture": [each.picture for each in instances]}


def row(mine: dict[str, list[float]], uncoded: dict[str, list[float]]) -> dict[str, Any]:
    """Means by kind of prompt, and of the differences of each instance from its uncoded self, with 95 %
    intervals."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        difference = [coded - own for coded, own in zip(mine[kind], uncoded[kind], strict=True)]
        for name, values in ((kind, mine[kind]), (f"{kind}_difference", difference)):
            found[name] = {
                "mean": round(float(np.mean(values)), 4),
                "interval95": interval95(values, [int(number) for number in mine["picture"]], seed=0),
            }
    return found


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """Means, and differences from uncoded tiles with their intervals."""
    shown = Table("tiles", "box", "one point", "box, difference", "one point, difference")
    for name, each in rows.items():
        cells = [f"{each[kind]['mean']:.3f}" for kind in reversed(KINDS)]
        for kind in reversed(KINDS):
            low, high = each[f"{kind}_difference"]["interval95"]
            cells.append(f"{each[f'{kind}_difference']['mean']:+.3f} ({low:+.3f} to {high:+.3f})")
        shown.add_row(name, *cells)
    return shown


if __name__ == "__main__":
    main()
