"""Learning from another model: MobileSAM, a small SAM of its own kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from export.checkpoints.load import save_weights
from export.sam import build_sam
from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES
from tests.support.training import mobile_sam
from training.teachers import load_teacher, starting_weights

MINI = GEOMETRIES["mini"]
EXPECTED = [0.1324784, -1.7206117, -0.3222575, 0.2876139]


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
    student = load_teacher(checkpoint).student(MINI, init)
    assert student.geometry == MINI
    taught = mobile_sam()
    for name, tensor in student.sam.state_dict().items():
        own = name.startswith("image_encoder.") and not re.search(r"neck\.[123]", name)
        assert torch.equal(tensor, before[name] if own else taught[name]), name


def test_training_starts_from_the_weights_themselves(tmp_path: Path) -> None:
    weights, path = build_sam(MINI).state_dict(), tmp_path / "mini.safetensors"
    save_weights(weights, path, "distilled", "nothing")
    for start in (starting_weights(MINI, path), load_teacher(path).student(None)):
        same = start.sam.state_dict()
        assert all(torch.equal(same[name], tensor) for name, tensor in weights.items())


def test_any_sam_can_teach(tmp_path: Path) -> None:
    """What a student of --model takes of a SAM; the teacher here is small for the sake of time."""
    teacher = tmp_path / "teacher.pth"
    weights = build_sam(MINI).state_dict()
    torch.save(weights, teacher)
    student = load_teacher(teacher).student(MINI).sam
    same = {name for name, tensor in student.state_dict().items() if torch.equal(tensor, weights[name])}
    assert "mask_decoder.iou_token.weight" in same
    assert "image_encoder.blocks.0.attn.qkv.weight" not in same


def test_a_checkpoint_that_lacks_a_layer_is_told(checkpoint: Path) -> None:
    state = mobile_sam()
    del state["image_encoder.layers.2.blocks.3.attn.qkv.weight"]
    torch.save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"no MobileSAM checkpoint.*stages\.2\.blocks\.3\.attn\.qkv"):
        load_teacher(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or no PyTorch file"):
        load_teacher(checkpoint)


def test_mobile_sam_may_be_wrapped_halved_and_without_its_decoder(tmp_path: Path) -> None:
    """As `benchmarks.gpu_pack` writes it, and as a training of others may."""
    encoder = {n: t.half() for n, t in mobile_sam().items() if n.startswith("image_encoder.")}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in encoder.items()}}, tmp_path / "m.pth")
    teacher = load_teacher(tmp_path / "m.pth")
    assert teacher.own is None
    assert teacher.encoder.state_dict()["neck.0.weight"].dtype == torch.float32


def test_a_decoder_that_is_not_sams_is_refused(tmp_path: Path) -> None:
    state = {**mobile_sam(), "mask_decoder.hf_token.weight": torch.ones(1, 256)}
    torch.save(state, tmp_path / "light_hq.pth")
    with pytest.raises(CheckpointError, match="is SAM-HQ"):
        load_teacher(tmp_path / "light_hq.pth")
    state = {**mobile_sam(), "mask_decoder.mask_tokens.weight": torch.ones(9, 256)}
    torch.save(state, tmp_path / "classes.pth")
    with pytest.raises(
        CheckpointError, match=r"no MobileSAM.*mask_tokens\.weight is \[9, 256\], expected \[4"
    ):
        load_teacher(tmp_path / "classes.pth")
