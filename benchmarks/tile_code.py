"""What codes of tiles cost and lose: time to code a frame on one core, bytes, PSNR of decoded photographs.

    python -m benchmarks.tile_code --photos FOLDER --out benchmarks/results/tile_code.json

Of vit_b's canvas with a 16:9 picture, 1024 x 576. A time is the quickest of ROUNDS, since what else the
machine does only adds to it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: times are of one core

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe
from export.checks.coding import measure_coding
from export.checks.pictures import photographs, resized
from media.pictures import read_picture
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Pixels
from stages.tile_code import TileCode
from stages.tile_inputs import blank_canvas

CODES = ("rgb", "dct:21/6", "dct:15/6", "dct:10/3", "dct:6/3")
ROUNDS = 200
SIZE = (576, 1024)  # rows and columns of picture


@click.command()
@click.option("--photos", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(photos: Path, out: Path) -> None:
    """Measure and write."""
    paths = photographs(photos)
    pictures = {
        name: [resized(read_picture(path), GEOMETRIES[name]) for path in paths] for name in ("mini", "vit_b")
    }
    result = {
        "machine": describe(),
        "rounds": ROUNDS,
        "photographs": len(paths),
        "codes": [_row(name, pictures) for name in CODES],
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


def _row(name: str, pictures: dict[str, list[Pixels]]) -> dict[str, Any]:
    code, vit_b = TileCode.parse(name), GEOMETRIES["vit_b"]
    row = {"code": name, "encode_ms": round(1e3 * _encode_s(code, vit_b), 2)}
    for model, shown in pictures.items():
        found = measure_coding(code, GEOMETRIES[model], shown)
        row[model] = {
            "tile_bytes": code.tile_bytes(GEOMETRIES[model]),
            "psnr_db": round(found.psnr_db, 2) if name != "rgb" else None,
            "saturated_percent": round(100 * found.saturated, 3),
        }
    return row


def _encode_s(code: TileCode, geometry: Geometry) -> float:
    """Seconds to code all windows with picture."""
    rows, cols = SIZE
    pixels = blank_canvas(geometry)
    pixels[:rows, :cols] = np.random.default_rng(0).integers(0, 256, (rows, cols, 3))
    windows = geometry.windows_with_picture(rows, cols)
    extents = geometry.extents(rows, cols)[list(windows)]

    def once() -> float:
        started = time.perf_counter()
        code.encode(pixels, extents, windows, geometry)
        return time.perf_counter() - started

    return min(once() for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
