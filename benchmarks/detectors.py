"""What `--keep` costs: milliseconds a frame by detector and by the longest side of what it looks at.

    python -m benchmarks.detectors --threads 1 --threads 2 --out benchmarks/results/detectors.json

16:9 pictures of noise: the networks take the same time whatever they see. The median of the runs; nothing
else should run meanwhile.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe
from runtime.detectors.kinds import KINDS, make_find
from runtime.detectors.network import DetectorOptions, detector_device
from stages.tensors import Pixels

SIDES_PX = (384, 512, 640, 960, 1280)
RUNS = 9


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--backend", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(threads: tuple[int, ...], backend: str, out: Path) -> None:
    device = detector_device(backend)
    picture = np.random.default_rng(0).integers(0, 255, (540, 960, 3), np.uint8)
    rows = [
        measured(kind, DetectorOptions(px, number, device), picture)
        for number in threads
        for kind in KINDS
        for px in SIDES_PX
    ]
    found = {"machine": describe(), "device": str(device or "CPU"), "rows": rows}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(kind: str, options: DetectorOptions, picture: Pixels) -> dict[str, Any]:
    find = make_find(kind, options)
    seconds = []
    for _ in range(RUNS + 2):  # the first ones allocate
        started_s = time.perf_counter()
        list(find(picture))
        seconds.append(time.perf_counter() - started_s)
    middle = statistics.median(seconds[2:])
    row = {
        "kind": kind,
        "px": options.px,
        "threads": options.threads,
        "ms": round(1e3 * middle, 1),
        "frames_per_second": round(1 / middle, 1),
    }
    click.echo(row)
    return row


if __name__ == "__main__":
    main()
