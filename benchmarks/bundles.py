"""Bundles that measurements make for themselves."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from runtime.demo.demo import PEDSAM
from stages.bundle import is_bundle
from stages.errors import InputError
from stages.geometry import GEOMETRIES

MOBILE_SAM_GEOMETRY = GEOMETRIES["vit_b"]  # whose canvas and decoder are MobileSAM's


def random_bundle(model: str) -> Path:
    """The model with random weights, exported to out/random once; of vit_b and vit_h that takes minutes."""
    path = ROOT / "out" / "random" / model
    if not is_bundle(path):
        line = [*PEDSAM, "export", "--model", model, "--random-weights", "--out", str(path)]
        subprocess.run(line, check=True, stdout=sys.stderr)
    return path


def mobile_sam_graphs(checkpoint: Path) -> tuple[Path, Path]:
    """MobileSAM's encoder, with inputs and output of the stage `whole`, and its decoder: written to
    out/random once, by a process that may import torch. Raises InputError where there is no checkpoint."""
    _require(checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    folder = ROOT / "out" / "random" / f"mobile_sam_{digest}"
    if not folder.exists():
        line = [sys.executable, "-m", "benchmarks.bundles", str(checkpoint.resolve()), str(folder)]
        subprocess.run(line, check=True, cwd=ROOT)
    return folder / "whole" / "model.onnx", folder / "decoder" / "model.onnx"


def mobile_sam(checkpoint: Path) -> tuple[Any, Any]:
    """A Sam whose image encoder is MobileSAM's, and that encoder. Raises InputError for no checkpoint."""
    from export.sam import build_sam
    from training.teachers import load_teacher

    _require(checkpoint)
    teacher = load_teacher(checkpoint)
    sam: Any = build_sam(MOBILE_SAM_GEOMETRY)
    sam.image_encoder = teacher.encoder.eval()
    sam.image_encoder.img_size = MOBILE_SAM_GEOMETRY.image_size
    sam.load_state_dict(dict(teacher.shared), strict=False)
    return sam.eval(), teacher.encoder


def _require(checkpoint: Path) -> None:
    if not checkpoint.exists():
        raise InputError(f"{checkpoint} is not there; make build/mobile_sam.pt brings one")


def write_mobile_sam_graphs(checkpoint: Path, folder: Path) -> None:
    """Both graphs, each in a folder of its own of `folder`, which appears when they are done."""
    from evaluation.checkpoint import OnCanvas
    from export.exporter import example_inputs
    from export.onnx_files import write_onnx
    from export.stages import stage_plans
    from stages.tile_code import RGB

    sam, encoder = mobile_sam(checkpoint)
    plans = {plan.name: plan for plan in stage_plans(sam, MOBILE_SAM_GEOMETRY, "float32")}
    modules = {
        "whole": OnCanvas(encoder, sam, MOBILE_SAM_GEOMETRY, RGB),
        "decoder": plans["decoder"].build(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for name, module in modules.items():
            plan, path = plans[name], Path(scratch) / "graphs" / name / "model.onnx"
            write_onnx(module, example_inputs(plan), plan.inputs, plan.outputs, path)
        (Path(scratch) / "graphs").rename(folder)


if __name__ == "__main__":
    write_mobile_sam_graphs(Path(sys.argv[1]), Path(sys.argv[2]))
