"""How far honest embeddings differ, which noise spot checks find, and what they cost.

    python -m benchmarks.spot_checks --out benchmarks/results/spot_checks.json
    python -m benchmarks.spot_checks --components 64 --photos FOLDER --out OTHER.json

Of mini with trained weights, over the tiles of four photographs, on the CPU. Differences are those of
`runtime.sites.trust`. What a GPU rounds is PyTorch's rounding of every tensor (see `export.checks.rounding`),
the most that an fp16 or bf16 engine can round; "order" is onnxruntime without its optimisations, which adds
up in another order, as another CPU or an fp32 engine of a GPU does.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import onnxruntime
import torch
from skimage import data

from benchmarks.machine import describe
from benchmarks.precision import TRAINED
from export.checkpoints.load import load_weights
from export.checks.rounding import run_rounded
from export.components import choose_projection
from export.exporter import ExportOptions, empty_bundle, write_stage
from export.precision import stage_precisions
from export.stages import StagePlan, stage_plans
from runtime.edge import EdgeOptions, open_edge
from runtime.frames.canvas import make_canvas
from runtime.sites.spot_checks import synthetic_tiles
from runtime.sites.trust import Trust, Verdict, tolerance
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.probe import relative_rms
from stages.tensors import Array
from stages.tile_code import RGB

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
WIRES = ("fp32", "fp16", "int8")
SYNTHETIC = 4  # sets of synthetic tiles, of as many sites
NOISE = tuple(percent / 1000 for percent in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30))
SEQUENCES, CHECKS = 200, 10
FRAMES = 120

Inputs: TypeAlias = Mapping[str, Array]
Outputs: TypeAlias = tuple[Array, Array, Array]  # embedding fp32, embedding_q8, scale


@click.command()
@click.option("--components", type=click.IntRange(1), help="Of embeddings of so many, fitted to --photos.")
@click.option("--photos", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(components: int | None, photos: Path | None, out: Path) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    geometry = GEOMETRIES["mini"]
    canvases = [make_canvas(np.asarray(getattr(data, name)()), geometry) for name in PHOTOS]
    weights = load_weights(None, TRAINED)
    weights = replace(weights, projection=choose_projection(weights, components, RGB, photos, click.echo))
    coded = empty_bundle(weights, geometry, Path(), ExportOptions("float32"))
    tiles = [canvas.window_inputs([window], coded) for canvas in canvases for window in canvas.windows]
    probes = [tile for seed in range(SYNTHETIC) for tile in synthetic_tiles(coded, seed)]
    plans = {
        p: _window(
            stage_plans(
                weights.sam, geometry, "float32", stage_precisions([p]), projection=weights.projection
            )
        )
        for p in _PRECISIONS
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = replace(coded, path=Path(folder))
        bundle = write_stage(bundle, plans["fp32"], plans["fp32"].build().eval())
        path = str(bundle.path / bundle.stage("window").file)
        own = _session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        order = _session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    engines = {"order": order, "fp16": _rounding(plans["fp16"]), "bf16": _rounding(plans["bf16"])}
    result = {
        "machine": describe() | {"torch": torch.__version__},
        "differences": [
            _differences(name, wire, engine, own, tiles, probes)
            for name, engine in engines.items()
            for wire in WIRES
        ],
        "another_tile": _another_tile(own, tiles),
        "noise": [_noise(wire, own, tiles) for wire in WIRES],
        "cost": asyncio.run(_cost(Bundle.load(shipped_bundle()))),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


_PRECISIONS = ("fp32", "fp16", "bf16")


def _window(plans: tuple[StagePlan, ...]) -> StagePlan:
    return next(plan for plan in plans if plan.name == "window")


def _session(path: str, level: Any) -> Callable[[Inputs], Outputs]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.graph_optimization_level = 1, level
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = ["embedding", "embedding_q8", "scale"]
    return lambda inputs: tuple(session.run(names, dict(inputs)))


def _rounding(plan: StagePlan) -> Callable[[Inputs], Outputs]:
    module = plan.build().eval()

    def run(inputs: Inputs) -> Outputs:
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in plan.inputs]
        with torch.no_grad():
            embedding, values, scale = run_rounded(module, tensors)
        return embedding.float().numpy(), values.numpy(), scale.numpy()

    return run


def _received(outputs: Outputs, wire: str) -> Array:
    """What the edge has of these outputs."""
    embedding, values, scale = outputs
    if wire == "int8":
        decoded: Array = (values.astype(np.float32) * scale.astype(np.float32)).astype(np.float16)
        return decoded
    return embedding.astype(np.float16) if wire == "fp16" else embedding


def _differences(
    name: str,
    wire: str,
    engine: Callable[[Inputs], Outputs],
    own: Callable[[Inputs], Outputs],
    tiles: list[dict[str, Array]],
    probes: list[dict[str, Array]],
) -> dict[str, Any]:
    """Of tiles and of probes, and what the limit of such a site is."""

    def found(inputs: Inputs) -> float:
        return relative_rms(_received(engine(inputs), wire), _received(own(inputs), wire))

    shown, of_tiles = [found(probe) for probe in probes], [found(tile) for tile in tiles]
    precision = "bf16" if name == "bf16" else "fp16"
    trust = Trust(tolerance(precision, wire))
    trust.connected(max(shown))
    logarithms = np.log(np.maximum(of_tiles, 1e-12))
    positive = bool(min(of_tiles))
    return {
        "engine": name,
        "wire": wire,
        "tiles": len(tiles),
        "mean_percent": _percent(math.exp(logarithms.mean())) if positive else 0.0,
        "largest_percent": _percent(max(of_tiles)),
        "spread_of_logarithm": round(float(logarithms.std()), 3) if positive else None,
        "largest_of_probes_percent": _percent(max(shown)),
        "limit_percent": _percent(trust.limit),
        "largest_share_of_limit": round(max(of_tiles) / trust.limit, 3),
    }


def _another_tile(own: Callable[[Inputs], Outputs], tiles: list[dict[str, Array]]) -> dict[str, Any]:
    """Differences from the embedding of another tile, and of one that shows the same at another position."""
    embeddings = [_received(own(tile), "fp16") for tile in tiles]
    others = [relative_rms(embeddings[i - 1], embeddings[i]) for i in range(len(tiles))]
    plain = [{**tiles[0], "tile": np.full_like(tiles[0]["tile"], grey)} for grey in (0, 128)]
    places = [
        [_received(own({**p, "index": np.array([[w]], np.int32)}), "fp16") for w in (6, 7)] for p in plain
    ]
    return {
        "smallest_percent": _percent(min(others)),
        "same_content_elsewhere_percent": [_percent(relative_rms(a, b)) for a, b in places],
    }


def _noise(wire: str, own: Callable[[Inputs], Outputs], tiles: list[dict[str, Array]]) -> dict[str, Any]:
    """The checks that noise of so many percent of the embedding takes, added before the wire rounds."""
    rng = np.random.default_rng(5)
    outputs = [own(tile) for tile in tiles]
    rows = [row for level in NOISE for row in _found(wire, level, outputs, rng)]
    sure = [row["noise_percent"] for row in rows if row["found_share"] >= 0.99]
    return {"wire": wire, "smallest_found_percent": min(sure), "within_checks": CHECKS, "levels": rows}


def _found(
    wire: str, level: float, outputs: list[Outputs], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    needed, differences = [], []
    for _ in range(SEQUENCES):
        trust = Trust(tolerance("fp32", wire))
        for number in range(1, CHECKS + 1):
            answer = outputs[rng.integers(len(outputs))]
            differences.append(relative_rms(_noisy(answer, wire, level, rng), _received(answer, wire)))
            if trust.judge(differences[-1]) is Verdict.LIED:
                needed.append(number)
                break
    yield {
        "noise_percent": _percent(level),
        "difference_percent": _percent(float(np.median(differences))),
        "found_share": len(needed) / SEQUENCES,
        "checks_median": float(np.median(needed)) if needed else None,
        "checks_most": max(needed, default=None),
    }


def _noisy(outputs: Outputs, wire: str, level: float, rng: np.random.Generator) -> Array:
    embedding, _, scale = outputs
    rms = float(np.sqrt(np.mean(embedding.astype(np.float64) ** 2)))
    noisy = (embedding + rng.normal(0, level * rms, embedding.shape)).astype(np.float32)
    if wire != "int8":
        return _received((noisy, noisy, noisy), wire)
    values = np.clip(np.rint(noisy / scale.astype(np.float32)), -128, 127).astype(np.int8)
    return _received((noisy, values, scale), wire)


async def _cost(bundle: Bundle) -> dict[str, Any]:
    """Frames of a still camera that pans, through three sites on this machine, with the default options."""
    photo = np.asarray(getattr(data, PHOTOS[1])())[:360, :600]
    async with AsyncExitStack() as stack:
        entries = []
        for name in "abc":
            site = await stack.enter_async_context(running_site(bundle, ServeOptions(port=0, threads=1)))
            entries.append(f'[[site]]\nname = "{name}"\noperator = "o{name}"\nurl = "{site.url}"\n')
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "sites.toml").write_text("\n".join(entries), encoding="utf-8")
        options = EdgeOptions(sites=folder / "sites.toml", threads=1)
        edge = await stack.enter_async_context(
            open_edge(bundle, [photo.shape[:2]], options, lambda text: click.echo(text))
        )
        started = time.perf_counter()
        for number in range(FRAMES):
            canvas = make_canvas(np.roll(photo, 4 * number, axis=1), bundle.geometry)
            await edge.encoder.encode(canvas, number)
        wall_s = time.perf_counter() - started
        checks = sum(edge.spot_checks.checks.values()) if edge.spot_checks else 0
        window_s = edge.engines.mean_s("window")
    return {
        "rate": options.spot_checks,
        "share_allowed": options.spot_check_share,
        "frames": FRAMES,
        "seconds": round(wall_s, 2),
        "checks": checks,
        "window_ms": round(window_s * 1e3, 2),
        "share_of_engine_time": round(checks * window_s / wall_s, 5),
        "probes_once_ms": round(8 * window_s * 1e3, 1),
    }


def _percent(share: float) -> float:
    return float(f"{100 * share:.3g}")


if __name__ == "__main__":
    main()
