"""`pedsam distill`: from a SAM of the same size, and from another model."""

from __future__ import annotations

from pathlib import Path

import torch

from export.checkpoints.load import load_weights, save_weights
from export.sam import build_sam
from stages.geometry import GEOMETRIES
from tests.support.training import SHORT, invoke, mobile_sam

MINI = GEOMETRIES["mini"]


def test_the_command_distils_what_train_made(pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = tmp_path / "teacher.safetensors"
    save_weights(build_sam(GEOMETRIES["mini"]).state_dict(), teacher, "undistilled", "nothing")
    out = tmp_path / "student.safetensors"
    command = ("distill", "--checkpoint", teacher, "--images", pairs, "--out", out, "--accumulate", 2, *SHORT)
    done = invoke(*command)
    assert "training is complete" in done.output, done.output
    assert "distil " in done.output
    assert "mask" not in done.output
    student = load_weights(None, out)
    assert (student.geometry.name, student.status) == ("mini", "distilled")
    assert student.trained_on == "3 pictures, 2 steps of 2, reordered block order"
    with_masks = invoke(*command, "--masks", pairs, "--out", tmp_path / "m.safetensors")
    assert "mask " in with_masks.output, with_masks.output


def test_the_command_teaches_a_smaller_model(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    who = ("--checkpoint", checkpoint, "--model", "mini")
    done = invoke("distill", *who, "--images", pairs, "--out", out, *SHORT)
    assert "training is complete" in done.output, done.output
    student = load_weights(MINI, out)
    taught = mobile_sam()
    state = student.sam.state_dict()
    changed = {name for name in state if name in taught and not torch.equal(state[name], taught[name])}
    assert changed
    assert all(name.startswith("image_encoder.neck") for name in changed)  # nothing teaches the decoder


def test_mobile_sam_cannot_be_reordered(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    command = ("distill", "--checkpoint", checkpoint, "--images", pairs, "--out", out)
    said = invoke(*command, *SHORT)
    sentence = "MobileSAM has no blocks to reorder; give the model that learns from it: --model mini"
    assert said.output == f"Error: {sentence}\n"
    said = invoke(*command, "--init", out, *SHORT)
    assert "--init needs --model" in said.output
