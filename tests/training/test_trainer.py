"""The training loop: the loss falls, validation, and a killed run goes on exactly."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.modules import reordered_encoder
from export.sam import build_sam, randomise
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from tests.support.disks import limited_to
from tests.support.training import TINY, Drawn, batches, ignore, trainer
from training.augmentation import Batch, Batches
from training.objective import Objective
from training.pictures import InMemory
from training.promptable import Promptable
from training.trainer import Trainer, TrainOptions, accelerated, growing_sizes, in_own_order, validation_ious


def mask_loss(model: Trainer, batch: Batch) -> float:
    losses = model._objective(batch, False, torch.Generator(batch.pixels.device).manual_seed(0))
    return float(losses["mask"].detach())


def test_one_step_lowers_the_loss_on_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer(tmp_path / "a.state", steps=10, warm_up=0.1, rate=5e-4)
    batch = model._batches.draw(4, 2, 80)
    monkeypatch.setattr(model._batches, "draw", lambda *_: batch)
    before = mask_loss(model, batch)
    model.one_step()
    assert mask_loss(model, batch) < before


@pytest.mark.gpu
def test_training_on_a_gpu_lowers_the_loss(tmp_path: Path) -> None:
    """Needs a CUDA GPU."""
    cuda = torch.device("cuda")
    torch.manual_seed(1)
    options = TrainOptions(60, ((1.0, 80),), pictures=4, objects=2, rate=2e-3, validate_every=1000)
    drawer = Batches(InMemory([Drawn()] * 4, TINY, cuda), cuda, 0)
    objective = Objective(Promptable(build_sam(TINY))).to(cuda)
    run = Trainer(objective, drawer, options, accelerated(options), tmp_path / "a.state")
    batch = drawer.draw(8, 2, 80)
    before = mask_loss(run, batch)
    assert run.run(ignore)
    assert mask_loss(run, batch) < 0.7 * before


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    model = trainer(tmp_path / "a.state", steps=60)
    said: list[tuple[int, Mapping[str, float]]] = []
    batch = model._batches.draw(8, 2, 80)
    before = mask_loss(model, batch)
    assert model.run(lambda step, values: said.append((step, values)))
    assert mask_loss(model, batch) < 0.7 * before
    assert said[-1][0] == 60
    assert said[-1][1].keys() == {"box mIoU", "point mIoU"}
    assert "corrected" in said[-2][1]
    lines = [json.loads(line) for line in model.curve_path.read_text().splitlines()]
    assert lines[-1] == {"step": 60, **said[-1][1]}


class Oracle:
    """Answers with the true masks of a batch: as mask 0, and as the best rated of the others only once."""

    def __init__(self, batch: Batch) -> None:
        self._masks = batch.masks.flatten(0, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels, pixels

    def decode(self, each: Tensor, coords: Tensor, labels: Tensor, mask: None) -> tuple[Tensor, Tensor]:
        right = (self._masks > 0.5).float() * 2 - 1
        if labels[0, 0] == 2:
            return torch.stack([right, -right, -right, -right], dim=1), torch.zeros(len(right), 4)
        rated = torch.tensor([[1.0, 0.1, 0.3, 0.2]]).repeat(len(right), 1)
        rated[0] = torch.tensor([1.0, 0.3, 0.1, 0.2])
        return torch.stack([-right, -right, right, -right], dim=1), rated


def test_validation_takes_mask_0_for_a_box_and_the_best_rated_other_for_a_click() -> None:
    batch = next(batches(held_back=2).held_back(2, 2))
    model: Any = Oracle(batch)
    box, point = validation_ious(model, batch, torch.Generator())
    assert box.tolist() == [1, 1, 1, 1]
    assert point.tolist() == [0, 1, 1, 1]


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    """Step by step with a restart between, training ends at the very weights of a run in one go."""
    whole = trainer(tmp_path / "whole.state")
    assert whole.run(ignore)
    for step in range(1, 5):
        part = trainer(tmp_path / "part.state", seconds=0)
        assert part.run(ignore) == (step == 4)
        assert part.step == step
    for name, tensor in part.model.sam.state_dict().items():
        assert torch.equal(tensor, whole.model.sam.state_dict()[name]), name
    assert all(torch.equal(tensor, whole.averaged()[name]) for name, tensor in part.averaged().items())


def test_accumulated_batches_make_one_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer(tmp_path / "a.state", pictures=1, accumulate=2)
    updates: list[int] = []
    monkeypatch.setattr(model._optimisers[0], "step", lambda *_: updates.append(1))
    model.one_step()
    assert (len(updates), model._batches.drawn, model.images_a_step) == (1, 2, 2)


def test_the_rate_warms_up_and_cools_down_and_pictures_grow() -> None:
    options = TrainOptions(100, growing_sizes(GEOMETRIES["mini"]), warm_up=0.1, cool_down=0.4)
    assert [options.rate_at(n, options.done(n)) for n in (0, 4, 9, 50, 60, 80, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1, 0.5, 0.025]
    )
    assert [options.size(n / 100) for n in (0, 44, 46, 84, 86, 99)] == [160, 160, 240, 240, 384, 384]


def test_with_a_budget_time_says_how_much_is_done() -> None:
    options = TrainOptions(1000, ((1.0, 80),), budget=1000, began=time.monotonic() - 800)
    assert options.done(5) == pytest.approx(0.8, abs=0.01)
    assert options.done(900) == 0.9  # steps may be over sooner
    assert options.done(5, before=0.5) == pytest.approx(0.9, abs=0.01)  # of a session that began half done
    assert options.rate_at(500, options.done(500)) == pytest.approx(0.5, abs=0.03)


def test_a_budget_ends_the_training_and_its_weights_are_kept_on_the_way(tmp_path: Path) -> None:
    run = trainer(tmp_path / "a.state", steps=10**6, budget=3600, save_every_s=0)
    run._options = dataclasses.replace(run._options, began=time.monotonic() - 3599.5)
    kept: list[int] = []
    assert run.run(ignore, keep=lambda: kept.append(run.step))
    assert 0 < run.step < 10**6
    assert kept[0] == 1
    assert trainer(tmp_path / "a.state", steps=10**6, budget=100).done() == 1


def test_a_step_whose_gradient_overflows_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer(tmp_path / "a.state")
    before = {name: tensor.clone() for name, tensor in model.model.sam.state_dict().items()}
    draw = model._batches.draw
    batch = draw(2, 2, 80)
    monkeypatch.setattr(
        model._batches, "draw", lambda *_: dataclasses.replace(batch, coded=batch.coded * float("inf"))
    )
    model.one_step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.sam.state_dict().items())


def test_a_student_of_two_blocks_recovers_its_teacher(tmp_path: Path) -> None:
    """One window and one global block: reordering changes nothing, so the student can become its teacher."""
    toy = Geometry("toy", 80, 16, 2, 24, 3, 2, (1,))
    torch.manual_seed(2)
    teacher = build_sam(toy)
    randomise(teacher)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.image_encoder.blocks.parameters():
            parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
    reordered_encoder(student.image_encoder, toy)
    options = TrainOptions(150, ((1.0, 80),), pictures=4, objects=2, rate=2e-3, ema=0.9, validate_every=1000)
    objective = Objective(Promptable(student), teacher=Promptable(teacher), masks=False)
    run = Trainer(objective, batches(), options, accelerated(options, "cpu", "no"), tmp_path / "a.state")
    decoder = {name: tensor.clone() for name, tensor in student.mask_decoder.state_dict().items()}
    first = run.one_step()["distil"]
    run.run(ignore)
    last = objective(batches(seed=9).draw(4, 2, 80), False, torch.Generator())
    assert last.keys() == {"distil"}
    assert last["distil"] < 0.15 * first
    assert all(torch.equal(tensor, decoder[n]) for n, tensor in student.mask_decoder.state_dict().items())


def test_reordered_weights_are_saved_under_sams_own_names(tmp_path: Path) -> None:
    sam = build_sam(TINY)
    randomise(sam)
    own = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    reordered_encoder(sam.image_encoder, TINY)
    renamed = in_own_order(sam.state_dict(), TINY)
    assert renamed.keys() == own.keys()
    assert all(torch.equal(renamed[name], own[name]) for name in own)


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_state_that_does_not_fit_is_told(tmp_path: Path, content: bytes | None) -> None:
    state = tmp_path / "a.state"
    if content is None:
        torch.save({"objective": {}}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.state is damaged or of another training run; remove it"):
        trainer(state)


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "s.state"
    trainer(path, steps=1).run(ignore)
    before = path.read_bytes()
    more = trainer(path, steps=2)
    with limited_to(10_000), pytest.raises(InputError, match=r"cannot write .*s\.state; check .*(\(.+\))$"):
        more.run(ignore)
    assert path.read_bytes() == before


def test_a_curve_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "s.curve.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*s\.curve\.jsonl; check free space"):
        trainer(tmp_path / "s.state", steps=1).run(ignore)
