"""What share of the windows of pictures `--keep` keeps, and what looking for it takes.

    python -m benchmarks.kept_windows --data FOLDER --out benchmarks/results/kept_windows.json

Every picture of FOLDER is one of its own, on the canvas of mini and on that of SAM's models; the detectors
look at it as those of a run do, on one thread. No network of the model runs. Windows without picture do not
count. `--keep faces,text` keeps what either of the two kinds does, and takes the time of both: milliseconds
of the processor, the median over the pictures, so that other work of the machine disturbs little.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe
from evaluation.statistics import interval95
from export.checks.pictures import photographs
from media.pictures import read_picture
from runtime.detectors.kinds import KINDS
from runtime.detectors.network import DetectorOptions
from runtime.frames.canvas import make_canvas
from runtime.frames.kept import Kept
from runtime.keeper import KeepOptions, keeping
from runtime.sites.ledger import ExposureLedger
from stages.geometry import GEOMETRIES, Geometry

MODELS = ("mini", "vit_b")  # whose canvases are looked at: 384 and 1024 pixels
CHOICES = (("faces",), ("text",), ("faces", "text"))
SEED = 0


async def looked_at(kind: str, paths: Sequence[Path], geometry: Geometry) -> list[Kept]:
    """What a keeper of one kind says of each picture; `seconds` are those of the processor."""
    options = KeepOptions(kinds=(kind,), detectors=DetectorOptions(threads=1), films=False)
    found = []
    async with keeping(options, ExposureLedger(None, {}, {}, "", {})) as keeper:
        for number, path in enumerate(paths):
            canvas = make_canvas(read_picture(path), geometry)
            started_s = time.process_time()
            kept = await keeper(canvas, number)
            found.append(replace(kept, seconds=time.process_time() - started_s))
    return found


def row(found: Sequence[Sequence[Kept]], shown: Sequence[frozenset[int]]) -> dict[str, Any]:
    """Of what each of some kinds says of each picture, and of the windows with picture of each."""
    kept = [frozenset[int]().union(*(of.windows for of in each)) for each in zip(*found, strict=True)]
    shares = [len(some & all_) / len(all_) for some, all_ in zip(kept, shown, strict=True)]
    seconds = [sum(of.seconds for of in each) for each in zip(*found, strict=True)]
    return {
        "pictures": len(shares),
        "windows_kept": float(np.mean(shares)),
        "interval95": interval95(shares, range(len(shares)), SEED),
        "pictures_with_any": float(np.mean([share > 0 for share in shares])),
        "pictures_with_all": float(np.mean([share == 1 for share in shares])),
        "processor_ms": round(1e3 * float(np.median(seconds)), 1),
    }


def rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for model in MODELS:
        geometry = GEOMETRIES[model]
        sizes = [read_picture(path).shape[:2] for path in paths]
        shown = [frozenset(geometry.windows_with_picture(*size)) for size in sizes]
        found = {kind: asyncio.run(looked_at(kind, paths, geometry)) for kind in KINDS}
        for kinds in CHOICES:
            about = {"canvas_px": geometry.image_size, "keep": list(kinds)}
            yield {**about, **row([found[kind] for kind in kinds], shown)}


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data: Path, out: Path) -> None:
    paths = photographs(data)
    found: dict[str, Any] = {"machine": describe(), "keep_px": DetectorOptions.px, "threads": 1, "rows": []}
    for each in rows(paths):
        click.echo(json.dumps(each))
        found["rows"].append(each)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
