"""What fp16 and bf16 do to masks of photographs, and the memory the edge's stages need.

    python -m benchmarks.precision --out benchmarks/results/precision.json

Rounding is PyTorch's on the CPU (see `export.rounding`): minutes for vit_b, whose weights are random. Memory
is computed from graphs with random weights, four global blocks, as all vit_* have, and one window block: the
edge runs no other. Exits with an error when a mask of fp16 differs more than it may.
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
from skimage import data

from benchmarks.machine import describe
from export.check_pictures import resized
from export.memory import stage_memory
from export.numerics import measure_numerics
from export.onnx_files import write_onnx
from export.precision import stage_precisions
from export.sam import Sam, build_sam, load_weights, randomise
from export.stages import stage_plans
from stages.geometry import GEOMETRIES, Geometry

TRAINED = Path(__file__).parent.parent / "assets/mini.safetensors"
LOW = ("fp16", "bf16")
PHOTOS = {"mini": ("astronaut", "coffee", "chelsea", "rocket"), "vit_b": ("astronaut",)}
LEAST_IOU = 0.99  # of any mask of fp16 with that of fp32
PROMPTS = {"one point": {"p": 1, "k": 2}, "eight boxes": {"p": 8, "k": 2}}


@click.command()
@click.option("--skip-vit-b", is_flag=True, help="Leave out the rounding of vit_b, which takes minutes.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(skip_vit_b: bool, out: Path) -> None:
    """Measure rounding and compute memory; write both."""
    result: dict[str, Any] = {"machine": describe() | {"torch": torch.__version__}}
    result["rounding"] = [rounding("mini", load_weights(None, TRAINED).sam, "trained", p) for p in LOW]
    if not skip_vit_b:
        result["rounding"].append(rounding("vit_b", random_sam(GEOMETRIES["vit_b"]), "random", "fp16"))
    result["edge_memory"] = [row for name in ("vit_b", "vit_l", "vit_h") for row in edge_memory(name)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))
    if min(row["masks_iou_min"] for row in result["rounding"] if row["precision"] == "fp16") < LEAST_IOU:
        raise click.ClickException(f"a mask of fp16 has less than IoU {LEAST_IOU} with that of fp32")


def random_sam(geometry: Geometry) -> Sam:
    sam = build_sam(geometry)
    randomise(sam)
    return sam


def rounding(model: str, sam: Sam, weights: str, precision: str) -> dict[str, Any]:
    """Masks, image embedding and largest values of a precision beside fp32, on scikit-image's photographs."""
    geometry = GEOMETRIES[model]
    exact = stage_plans(sam, geometry, "float16")
    low = stage_plans(sam, geometry, "float16", stage_precisions([precision]))
    pictures = [resized(getattr(data, name)(), geometry) for name in PHOTOS[model]]
    found = measure_numerics(exact, low, geometry, pictures)
    return {
        "model": model,
        "weights": weights,
        "precision": precision,
        "photographs": list(PHOTOS[model]),
        "prompts": len(found.ious),
        "masks_iou_mean": round(sum(found.ious) / len(found.ious), 4),
        "masks_iou_min": round(min(found.ious), 4),
        "image_embedding_largest_difference": float(f"{found.embedding:.2g}"),
        "largest_value": {stage: round(peak.value, 1) for stage, peak in found.peaks.items()},
    }


@torch.no_grad()
def edge_memory(model: str) -> Iterator[dict[str, Any]]:
    """Memory of the global stage and of the decoder, per precision."""
    geometry = GEOMETRIES[model]
    edge = replace(geometry, name=f"{model} edge", depth=5, global_blocks=(1, 2, 3, 4))
    sam = random_sam(edge)
    for precision in ("fp16", "fp32"):
        plans = {plan.name: plan for plan in stage_plans(sam, edge, "float16", stage_precisions([precision]))}
        for stage, cases in (("global", {"a frame": {}}), ("decoder", PROMPTS)):
            with tempfile.TemporaryDirectory() as folder:
                plan, path = plans[stage], Path(folder, stage, "model.onnx")
                write_onnx(plan.build(), plan.examples(torch.Generator()), plan.inputs, plan.outputs, path)
                for case, axes in cases.items():
                    found = stage_memory(path, axes)
                    yield {
                        "model": model,
                        "stage": stage,
                        "precision": precision,
                        "for": case,
                        "weights_mb": round(found.weights_bytes / 1e6, 1),
                        "activations_at_most_mb": round(found.activation_bytes / 1e6, 1),
                    }


if __name__ == "__main__":
    main()
