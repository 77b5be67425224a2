"""Memory that engines of the edge's stages take, as TensorRT for RTX tells, beside what the graphs tell.

    python -m benchmarks.engine_memory --out benchmarks/results/engine_memory.json

Built for sm_86, the nearest to a Jetson Orin's sm_87 that it knows, without a GPU; TensorRT on the board may
take other kernels. Graphs hold random weights, all four global blocks, and one window block: further ones add
weights and no activations. Sizes are at the largest shapes of the plans: 25 windows, 4 objects of 32 points.
With --model the rows of other models in OUT stay.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.machine import describe
from export.engines.builder import RTX, BuildJob, build
from export.exporter import ExportOptions, empty_bundle, largest_memory, write_stage
from export.precision import stage_precisions
from export.sam import Weights, build_sam, randomise
from export.stages import stage_plans
from stages.bundle import Bundle
from stages.engines.plans import profile_shapes
from stages.engines.tensorrt_engine import tensorrt_library
from stages.geometry import GEOMETRIES

MODELS = ("mini", "small", "vit_b", "vit_l", "vit_h")
PRECISIONS = ("fp16", "fp32")
STAGES = ("window", "global", "decoder")
SM = "sm_86"


@click.command()
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(models: tuple[str, ...], out: Path) -> None:
    """Write the graphs, build them, and keep nothing but what the builder said."""
    trt = tensorrt_library(RTX)
    rows = [row for p in PRECISIONS for model in models for row in edge_stages(trt, model, p)]
    machine = {"models": list(models)} | describe() | {"torch": torch.__version__, RTX: trt.__version__}
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"machines": [], "stages": []}
    rows = [row for row in kept["stages"] if row["model"] not in models] + rows
    text = json.dumps({"machines": [*kept["machines"], machine], "target": SM, "stages": rows}, indent=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


@torch.no_grad()
def edge_stages(trt: Any, model: str, precision: str) -> Iterator[dict[str, Any]]:
    """Each stage of the edge: written, built, told."""
    geometry = replace(GEOMETRIES[model], name=f"{model} edge", depth=5, global_blocks=(1, 2, 3, 4))
    sam = build_sam(geometry)
    randomise(sam)
    options = ExportOptions(precisions=stage_precisions([precision]))
    weights = Weights(sam, geometry, "untrained", "random numbers")
    plans = stage_plans(sam, geometry, options.embedding_dtype, options.precisions)
    with tempfile.TemporaryDirectory() as folder:
        bundle = empty_bundle(weights, geometry, Path(folder), options)
        for plan in plans:
            if plan.name in STAGES:
                bundle = write_stage(bundle, plan, plan.build())
                row = {"model": model, "precision": precision, "stage": plan.name}
                yield row | figures(trt, bundle, plan.name)


def figures(trt: Any, bundle: Bundle, stage: str) -> dict[str, Any]:
    """What the graph and the builder say, in MB."""
    job = BuildJob(stage, bundle.verified_file(stage), profile_shapes(bundle, stage), SM)
    built, graph = build(trt, job, lambda fraction: True), largest_memory(bundle, stage)
    return {
        "weights_mb": None if stage == "window" else megabytes(built.weights_bytes),  # of one block
        "activations_mb": megabytes(built.activation_bytes),
        "activations_by_graph_mb": megabytes(graph.activation_bytes),
        "layers": built.layers,
        "build_s": round(built.seconds, 1),
    }


def megabytes(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 1)


if __name__ == "__main__":
    main()
