"""Training: what a step sees, what it is punished for, and that a killed run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from export.augment import Batches
from export.data import Packed
from export.modules import reordered_encoder
from export.prompting import clicks, corrections, noisy_boxes
from export.sam import build_sam, load_weights, randomise, save_weights
from export.train import Trainer, TrainOptions, first_prompts, in_own_order, losses, mask_losses, true_iou
from pedsam import main
from stages.errors import CheckpointError
from stages.geometry import Geometry
from tests.export.test_data import write_pair
from tests.pictures import photo

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 4, (1, 3))
CPU = torch.device("cpu")


def packed() -> Packed:
    """Two pictures of 50 x 80 with two objects each."""
    images = np.zeros((2, 80, 80, 3), np.uint8)
    labels = np.zeros((2, 80, 80), np.uint8)
    images[:, :50] = photo("16:9")[:50, :80]
    labels[:, 5:45, 10:40], labels[:, 10:30, 50:75] = 1, 2
    return Packed(images, labels, np.array([[50, 80]] * 2, np.int32))


def trainer(state: Path, steps: int = 4, seconds: float = 1e9) -> Trainer:
    torch.manual_seed(1)
    options = TrainOptions(steps, pictures=2, objects=2, rate=1e-3, ema=0.9, seconds=seconds)
    return Trainer(build_sam(TINY), Batches(packed(), CPU, seed=0), options, CPU, state)


class Uncoloured(Batches):
    def _colour(self, pixels: Tensor) -> Tensor:
        return pixels


def test_a_crop_keeps_its_objects_in_place() -> None:
    """Pictures whose colour says which object a pixel belongs to still do so after cutting and mirroring."""
    data = packed()
    data.images[...] = 40 + 80 * data.labels[..., None]
    batch = Uncoloured(data, CPU, seed=3)
    drawn = batch.draw(16, 2)
    grey = drawn.pixels[:, 0] * batch._std[0, 0] + batch._mean[0, 0]
    inside = drawn.full.any(dim=1) & (grey > 100)
    assert inside.sum() > 0.9 * drawn.full.any(dim=1).sum()
    assert drawn.valid.any()
    for n in range(16):
        for k in range(2):
            if drawn.valid[n, k]:
                values = grey[n][drawn.full[n, k]]
                assert values.median() in (pytest.approx(120, abs=2), pytest.approx(200, abs=2))


def test_pixels_outside_the_crop_are_zero_and_objects_never_lie_there() -> None:
    drawn = Batches(packed(), CPU, seed=4).draw(32, 2)
    blank = (drawn.pixels == 0).all(dim=1)
    assert blank.any()
    assert not (drawn.full & blank[:, None]).any()


def test_prompts_lie_on_their_objects() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(20, 80, 80, dtype=torch.bool)
    masks[:, 10:50, 20:70] = True
    boxes = noisy_boxes(masks, generator)
    exact = torch.tensor([[20.0, 10.0], [70.0, 50.0]])
    assert (boxes - exact).abs().max() < 20
    assert torch.equal(noisy_boxes(masks, generator, noise=0)[0], exact)
    for (x, y), mask in zip(clicks(masks, generator)[:, 0].long().tolist(), masks, strict=True):
        assert mask[y, x]
    logits, target = torch.full((4, 20, 20), -1.0), torch.zeros(4, 20, 20)
    target[:, 5:9, 5:9] = 1
    coords, labels = corrections(logits, target, generator)
    assert (labels == 1).all()
    assert ((coords[:, 0] > 4 * 5 - 1) & (coords[:, 0] < 4 * 9)).all()
    _, labels = corrections(-logits, target * 0 + (torch.arange(20) < 10), generator)
    assert (labels == 0).all()


def test_the_right_mask_costs_least_and_the_best_of_three_is_trained_for_a_click() -> None:
    target = torch.zeros(2, 20, 20)
    target[:, 5:15, 5:15] = 1
    right, wrong = (target * 2 - 1) * 8, (1 - target * 2) * 8
    assert mask_losses(right, target).max() < 0.05 < 1 < mask_losses(wrong, target).min()
    assert (true_iou(right, target) == 1).all()
    masks = torch.stack([wrong, wrong, right, wrong], dim=1)
    iou = torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 2)
    single = torch.tensor([True, False])
    click_only, logits = losses(masks, iou, target, single, torch.tensor([True, False]))
    box_only, _ = losses(masks, iou, target, single, torch.tensor([False, True]))
    assert click_only.total < 0.05 < 1 < box_only.mask
    assert torch.equal(logits[0], right[0])
    assert torch.equal(logits[1], wrong[1])


def test_even_objects_get_boxes_and_odd_ones_clicks() -> None:
    batches = Batches(packed(), CPU, seed=0)
    coords, labels, single = first_prompts(batches.draw(2, 2), batches.generator)
    assert coords.shape == (4, 2, 2)
    assert labels.tolist() == [[2, 3], [1, -1]] * 2
    assert single.tolist() == [False, True] * 2


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    model = trainer(tmp_path / "a.state", steps=60)
    said: list[str] = []
    before = float(model._losses(model._batches.draw(8, 2))["mask"].detach())
    model.run(said.append)
    after = float(model._losses(model._batches.draw(8, 2))["mask"].detach())
    assert after < 0.7 * before
    assert "step 60 of 60" in said[-1]


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = trainer(tmp_path / "a.state", seconds=0)
    assert not first.run(lambda line: None)
    assert first.step == 1
    second = trainer(tmp_path / "a.state")
    assert second.step == 1
    for name, tensor in second.model.sam.state_dict().items():
        assert torch.equal(tensor, first.model.sam.state_dict()[name]), name
    assert second.run(lambda line: None)
    assert second.step == 4


def test_a_teacher_pulls_the_embedding(tmp_path: Path) -> None:
    torch.manual_seed(2)
    teacher = build_sam(TINY).image_encoder.eval()
    student = trainer(tmp_path / "a.state")
    student._teacher = teacher
    parts = student._losses(student._batches.draw(2, 2))
    assert parts["distil"] > 0.1
    assert parts["total"] > parts["distil"]


def test_reordered_weights_are_saved_under_sams_own_names(tmp_path: Path) -> None:
    sam = build_sam(TINY)
    randomise(sam)
    own = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    reordered_encoder(sam.image_encoder, TINY)
    renamed = in_own_order(sam.state_dict(), TINY)
    assert renamed.keys() == own.keys()
    assert all(torch.equal(renamed[name], own[name]) for name in own)


def test_weights_files_keep_their_status_and_bad_ones_are_refused(tmp_path: Path) -> None:
    from stages.geometry import GEOMETRIES

    sam = build_sam(GEOMETRIES["mini"])
    path = tmp_path / "w.safetensors"
    save_weights(sam.state_dict(), path, "distilled", "ten pictures")
    loaded = load_weights(GEOMETRIES["mini"], path)
    assert (loaded.status, loaded.trained_on) == ("distilled", "ten pictures")
    assert torch.equal(loaded.sam.image_encoder.pos_embed, sam.image_encoder.pos_embed)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or no safetensors"):
        load_weights(GEOMETRIES["mini"], path)
    save_weights({"a": torch.ones(1)}, path, "good", "x")
    with pytest.raises(CheckpointError, match="does not say what its weights are"):
        load_weights(GEOMETRIES["mini"], path)


@pytest.mark.timeout(600)
def test_the_command_trains_and_resumes(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    out = tmp_path / "mini.safetensors"
    arguments = ["train", "--model", "mini", "--data", str(tmp_path), "--out", str(out)]
    arguments += ["--steps", "2", "--pictures", "1", "--objects", "2"]
    stopped = CliRunner().invoke(main, [*arguments, "--seconds", "0"])
    assert "stopped early" in stopped.output, stopped.output
    done = CliRunner().invoke(main, arguments)
    assert "training is complete" in done.output, done.output
    assert "step 2 of 2" in done.output
