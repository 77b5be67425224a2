"""What fp16 and bf16 do to masks of photographs.

    python -m benchmarks.precision --out benchmarks/results/precision.json

Rounding is PyTorch's on the CPU (see `export.checks.rounding`): minutes for vit_b, whose weights are random.
Exits with an error when a mask of fp16 differs more than it may.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from skimage import data

from benchmarks.machine import describe
from export.checkpoints.load import load_weights
from export.checks.numerics import measure_numerics
from export.checks.pictures import resized
from export.precision import stage_precisions
from export.sam import Sam, build_sam, randomise
from export.stages import stage_plans
from stages.geometry import GEOMETRIES, Geometry

TRAINED = Path(__file__).parent.parent / "assets/mini.safetensors"
LOW = ("fp16", "bf16")
PHOTOS = {"mini": ("astronaut", "coffee", "chelsea", "rocket"), "vit_b": ("astronaut",)}
LEAST_IOU = 0.95  # of any mask of fp16 with that of fp32


@click.command()
@click.option("--skip-vit-b", is_flag=True, help="Leave out the rounding of vit_b, which takes minutes.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(skip_vit_b: bool, out: Path) -> None:
    """Measure rounding and write it."""
    result: dict[str, Any] = {"machine": describe() | {"torch": torch.__version__}}
    result["rounding"] = [rounding("mini", load_weights(None, TRAINED).sam, "trained", p) for p in LOW]
    if not skip_vit_b:
        result["rounding"].append(rounding("vit_b", random_sam(GEOMETRIES["vit_b"]), "random", "fp16"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
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


if __name__ == "__main__":
    main()
