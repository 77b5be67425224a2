"""Learning from another model: MobileSAM, a small SAM of its own kind."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.sam import build_sam, load_weights, save_weights
from export.teacher import load_teacher
from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES
from tests.export.test_training import SHORT, invoke

MINI = GEOMETRIES["mini"]
EXPECTED = [0.1324784, -1.7206117, -0.3222575, 0.2876139]
LAYOUT = Path(__file__).with_name("mobile_sam.tsv")  # names and shapes of the official checkpoint


def mobile_sam(seed: int = 0) -> dict[str, Tensor]:
    """Random weights in the key layout of MobileSAM's checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for line in LAYOUT.read_text("utf-8").splitlines():
        name, shape = line.split("\t")
        noise = torch.randn([int(side) for side in shape.split()], generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif noise.ndim > 1:
            state[name] = noise / math.sqrt(noise[0].numel())
        elif name.endswith(("weight", "running_var")):
            state[name] = (1 + 0.1 * noise).abs()
        else:
            state[name] = 0.1 * noise
    return state


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mobile_sam.pt"
    torch.save(mobile_sam(), path)
    return path


def test_mobile_sam_computes_what_its_own_code_computes(checkpoint: Path) -> None:
    """The expected values are MobileSAM's own code's, of the same weights and pixels."""
    pixels = torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = load_teacher(checkpoint).encoder.eval()(pixels)
    assert embedding.shape == (1, 256, 8, 8)
    torch.testing.assert_close(embedding[0, :4, 3, 5], torch.tensor(EXPECTED), rtol=0, atol=1e-5)


def test_a_smaller_student_starts_with_what_every_sam_has(checkpoint: Path, tmp_path: Path) -> None:
    init = tmp_path / "mini.safetensors"
    before = build_sam(MINI).state_dict()
    save_weights(before, init, "distilled", "nothing")
    student, geometry = load_teacher(checkpoint).student(MINI, init)
    assert geometry == MINI
    taught = mobile_sam()
    for name, tensor in student.state_dict().items():
        own = name.startswith("image_encoder.") and not re.search(r"neck\.[123]", name)
        assert torch.equal(tensor, before[name] if own else taught[name]), name


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


def test_any_sam_can_teach(tmp_path: Path) -> None:
    """What a student of --model takes of a SAM; the teacher here is small for the sake of time."""
    teacher = tmp_path / "teacher.pth"
    weights = build_sam(MINI).state_dict()
    torch.save(weights, teacher)
    student, _ = load_teacher(teacher).student(MINI)
    same = {name for name, tensor in student.state_dict().items() if torch.equal(tensor, weights[name])}
    assert "mask_decoder.iou_token.weight" in same
    assert "image_encoder.blocks.0.attn.qkv.weight" not in same


def test_mobile_sam_cannot_be_reordered(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    command = ("distill", "--checkpoint", checkpoint, "--images", pairs, "--out", out)
    said = invoke(*command, *SHORT)
    assert said.output == "Error: MobileSAM has no blocks to reorder; say who learns from it: --model mini\n"
    said = invoke(*command, "--init", out, *SHORT)
    assert "--init needs --model" in said.output


def test_a_checkpoint_that_lacks_a_layer_is_told(checkpoint: Path) -> None:
    state = mobile_sam()
    del state["image_encoder.layers.2.blocks.3.attn.qkv.weight"]
    torch.save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"no MobileSAM checkpoint.*stages\.2\.blocks\.3\.attn\.qkv"):
        load_teacher(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or no PyTorch file"):
        load_teacher(checkpoint)
