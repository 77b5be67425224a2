"""What a frame costs with one model and with another: processor time of each stage, bytes on the way.

    python -m benchmarks.model_costs --bundle stages/mini --bundle bundles/small --out results.json

By onnxruntime on one thread of the CPU. Processor time, the least of several calls; the models take turns, so
that what else a busy machine does falls on both. A frame is of 16:9: 15 windows, in the requests that three
sites with 5 each get.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from benchmarks.gpu_stages import feeds
from benchmarks.machine import describe
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS, choose_wire
from runtime.sites.traffic import frame_bytes, most_windows
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.tensors import Array

WINDOWS, SITES = 15, 3
CALLS = {"window": WINDOWS, "global": 1, "decoder": 1}  # windows, pictures, objects in a call
ROUNDS = 12


@click.command()
@click.option("--bundle", "paths", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(paths: tuple[Path, ...], out: Path) -> None:
    """Measure every bundle and write OUT."""
    bundles = [Bundle.load(path) for path in paths]
    milliseconds: dict[str, dict[str, float]] = {bundle.geometry.name: {} for bundle in bundles}
    for stage, size in CALLS.items():
        engines = {
            bundle.geometry.name: make_engine(bundle, stage, "onnxruntime-cpu", 1) for bundle in bundles
        }
        inputs = {bundle.geometry.name: feeds(bundle, stage, size) for bundle in bundles}
        for name, least in _in_turn(engines, inputs).items():
            milliseconds[name][stage] = round(least, 1)
    models = {
        bundle.geometry.name: {"frame_bytes": _bytes(bundle), "ms": milliseconds[bundle.geometry.name]}
        for bundle in bundles
    }
    result = {"machine": describe(), "windows": WINDOWS, "rounds": ROUNDS, "models": models}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(models, indent=1))


def _bytes(bundle: Bundle) -> dict[str, int]:
    """Of message bodies, up and down, for one frame."""
    stage, outputs = bundle.stage("window"), WIRE_OUTPUTS[choose_wire(bundle, None)]
    most = most_windows(stage, outputs, REQUEST_BYTES)
    size = frame_bytes(stage, outputs, [(WINDOWS // SITES, most)] * SITES)
    return {"up": size.up, "down": size.down}


def _in_turn(engines: dict[str, Engine], inputs: dict[str, dict[str, Array]]) -> dict[str, float]:
    """Least processor milliseconds of a call, by model."""
    least = dict.fromkeys(engines, float("inf"))
    for engine in engines.values():
        engine.open()
    try:
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                started = time.process_time()
                engine.infer(inputs[name])
                least[name] = min(least[name], 1000 * (time.process_time() - started))
    finally:
        for engine in engines.values():
            engine.close()
    return least


if __name__ == "__main__":
    main()
