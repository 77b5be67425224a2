"""Training: what a step sees, what it is punished for, and that a killed run goes on."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from export.augment import Batch, Batches
from export.data import LabelledSample
from export.hints import Hints
from export.modules import reordered_encoder
from export.objective import Objective, first_prompts, mask_losses, prediction_loss, true_iou
from export.pictures import InMemory
from export.promptable import Promptable
from export.prompting import clicks, corrections, noisy_boxes
from export.sam import Sam, build_sam, load_weights, randomise, save_weights
from export.trainer import Trainer, TrainOptions, accelerated, growing_sizes, in_own_order, validation_ious
from pedsam import main
from stages.errors import CheckpointError, InputError
from stages.geometry import GEOMETRIES, Geometry
from tests.pictures import photo

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 4, (1, 3))
CPU = torch.device("cpu")


class Drawn(LabelledSample):
    """A picture of 50 x 80 with two objects."""

    name = "drawn"

    def image(self) -> npt.NDArray[np.uint8]:
        return photo("16:9")[:50, :80]

    def labels(self) -> npt.NDArray[np.uint8]:
        labels = np.zeros((50, 80), np.uint8)
        labels[5:45, 10:40], labels[10:30, 50:75] = 1, 2
        return labels


class Tinted(Drawn):
    """Its colours say which object a pixel belongs to."""

    def image(self) -> npt.NDArray[np.uint8]:
        return np.repeat(40 + 80 * self.labels()[..., None], 3, axis=2)


def batches(seed: int = 0, held_back: int = 0, sample: type[Drawn] = Drawn) -> Batches:
    return Batches(InMemory([sample()] * 4, TINY, CPU), CPU, seed, held_back)


def trainer(state: Path, steps: int = 4, sam: Sam | None = None, **options: Any) -> Trainer:
    torch.manual_seed(1)
    chosen = {"pictures": 2, "objects": 2, "rate": 2e-3, "ema": 0.9, "validate_every": 1000} | options
    train_options = TrainOptions(steps, ((1.0, 80),), **chosen)
    objective = Objective(Promptable(sam or build_sam(TINY)))
    return Trainer(
        objective, batches(held_back=1), train_options, accelerated(train_options, "cpu", "no"), state
    )


class Lonely(Drawn):
    """One of its objects alone."""

    def labels(self) -> npt.NDArray[np.uint8]:
        return np.minimum(super().labels(), 1)


class Uncoloured(Batches):
    def _colour(self, pixels: Tensor) -> Tensor:
        return pixels


def test_a_crop_keeps_its_objects_in_place() -> None:
    """Pictures whose colour says which object a pixel belongs to still do so after cutting and mirroring."""
    drawer = Uncoloured(InMemory([Tinted()] * 2, TINY, CPU), CPU, seed=3)
    drawn = drawer.draw(16, 2, 80)
    grey = drawn.pixels[:, 0] * drawer._std[0, 0] + drawer._mean[0, 0]
    inside = drawn.full.any(dim=1) & (grey > 100)
    assert inside.sum() > 0.9 * drawn.full.any(dim=1).sum()
    assert drawn.valid.any()
    for n in range(16):
        for k in range(2):
            if drawn.valid[n, k] and drawn.full[n, k].sum() > 60:
                values = grey[n][drawn.full[n, k]]
                assert values.median() in (pytest.approx(120, abs=2), pytest.approx(200, abs=2))


def test_pictures_of_more_objects_come_more_often() -> None:
    drawer = Batches(InMemory([Drawn(), Lonely()], TINY, CPU), CPU, seed=0)
    chosen = []
    for drawer.drawn in range(50):
        chosen += drawer._chosen(6)
    assert 0.6 < chosen.count(0) / len(chosen) < 0.73  # two thirds


def test_every_object_is_asked_for_before_one_comes_again() -> None:
    labels = torch.from_numpy(Drawn().labels())
    batch = next(batches(held_back=4).held_back(4, 5))
    for n in range(4):
        areas = [int(full.sum()) for full in batch.full[n]]
        both = {int((labels == 1).sum()), int((labels == 2).sum())}
        assert set(areas[:2]) == both
        assert areas == [*areas[:2], *areas[:2], areas[0]]


def test_pixels_outside_the_crop_are_zero_and_objects_never_lie_there() -> None:
    drawn = batches(seed=4).draw(32, 2, 80)
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
    click_only, logits = prediction_loss(masks, iou, target, single, torch.tensor([True, False]))
    box_only, _ = prediction_loss(masks, iou, target, single, torch.tensor([False, True]))
    assert click_only < 0.05 < 1 < box_only
    assert torch.equal(logits[0], right[0])
    assert torch.equal(logits[1], wrong[1])


def test_even_objects_get_boxes_and_odd_ones_clicks() -> None:
    drawer = batches()
    full = drawer.draw(2, 2, 80).full.flatten(0, 1)
    coords, labels, single = first_prompts(full, drawer.generator)
    assert coords.shape == (4, 2, 2)
    assert labels.tolist() == [[2, 3], [1, -1]] * 2
    assert single.tolist() == [False, True] * 2


def test_an_object_of_the_next_picture_is_pasted_with_its_pixels_and_label() -> None:
    drawer = batches()
    pixels = torch.zeros(2, 3, 80, 80)
    labels = torch.zeros(2, 80, 80, dtype=torch.uint8)
    pixels[0], labels[0, 10:30, 20:40] = 100, 3
    extent = torch.tensor([[80.0, 80.0], [80.0, 30.0]])
    pasted = [drawer._paste(pixels, labels, extent) for _ in range(40)]
    got = [(after, marked) for after, marked in pasted if (marked[1] == 255).any()]
    assert 2 < len(got) < 25
    for after, marked in got:
        where = torch.zeros(80, 80, dtype=torch.bool)
        where[10:30, 20:30] = True  # what lies beyond the picture's own edge is left out
        assert torch.equal(marked[1] == 255, where)
        assert torch.equal(after[1, 0] == 100, where)
        assert torch.equal(marked[0], labels[0])


def test_smaller_canvases_show_the_same_scene() -> None:
    """A batch of half the size is the batch of full size, shrunk."""
    large, small = (batches(seed=5, sample=Tinted).draw(8, 2, size) for size in (80, 32))
    shrunk = torch.nn.functional.interpolate(large.pixels, (32, 32), mode="area")
    assert small.pixels.shape == (8, 3, 32, 32)
    assert small.masks.shape == (8, 2, 8, 8)
    assert (shrunk - small.pixels).abs().mean() < 0.25 * (shrunk - small.pixels.flip(0)).abs().mean()


def test_a_promptable_computes_what_sam_does() -> None:
    sam = build_sam(TINY)
    randomise(sam)
    pixels = torch.randn(2, 3, 80, 80)
    coords, labels = torch.tensor([[[10.0, 20.0], [60.0, 70.0]]] * 2), torch.tensor([[2.0, 3.0]] * 2)
    model = Promptable(sam).eval()
    with torch.no_grad():
        embedding, _ = model.encode(pixels)
        assert torch.allclose(embedding, sam.image_encoder(pixels), atol=1e-5)
        masks, iou = model.decode(embedding, coords, labels, None)
        sparse, dense = sam.prompt_encoder(points=None, boxes=coords.reshape(2, 4), masks=None)
        expected, rated = [], []
        for n in range(2):
            low, rate = sam.mask_decoder.predict_masks(
                embedding[n : n + 1], sam.prompt_encoder.get_dense_pe(), sparse[n : n + 1], dense[n : n + 1]
            )
            expected.append(low)
            rated.append(rate)
    assert torch.allclose(masks, torch.cat(expected), atol=1e-4)
    assert torch.allclose(iou, torch.cat(rated), atol=1e-4)


def test_a_smaller_picture_takes_coordinates_in_its_own_pixels() -> None:
    sam = build_sam(TINY)
    randomise(sam)
    model = Promptable(sam).eval()
    with torch.no_grad():
        embedding, tokens = model.encode(torch.randn(1, 3, 32, 32))
        assert embedding.shape == (1, 256, 2, 2)
        assert tokens.shape == (1, 24, 2, 2)
        corners = torch.tensor([[[-0.5, -0.5], [31.5, 31.5]]])  # those of the canvas, whatever its size
        labels = torch.tensor([[2.0, 3.0]])
        seen = []
        model._decoder.decode = lambda keys, pe, tokens: (seen.append(tokens), (keys, keys))[1]  # type: ignore
        model.decode(embedding, corners, labels, None)
        whole = model._decoder.tokens(torch.tensor([[[-0.5, -0.5], [79.5, 79.5]]]), labels)
    assert torch.allclose(seen[0], whole, atol=1e-5)


def test_activations_computed_twice_give_the_same_gradients() -> None:
    found = []
    for low_memory in (False, True):
        torch.manual_seed(0)
        model = Promptable(build_sam(TINY), low_memory)
        model.encode(torch.ones(1, 3, 80, 80))[0].square().sum().backward()  # type: ignore[no-untyped-call]
        found.append(model.sam.image_encoder.patch_embed.proj.weight.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)


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


def ignore(step: int, values: Mapping[str, float]) -> None:
    """A report nobody reads."""


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
    assert [options.rate_at(step) for step in (0, 4, 9, 50, 60, 80, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1, 0.5, 0.025]
    )
    assert [options.size(step) for step in (0, 44, 46, 84, 86, 99)] == [160, 160, 240, 240, 384, 384]


def test_a_step_whose_gradient_overflows_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer(tmp_path / "a.state")
    before = {name: tensor.clone() for name, tensor in model.model.sam.state_dict().items()}
    draw = model._batches.draw
    batch = draw(2, 2, 80)
    monkeypatch.setattr(
        model._batches, "draw", lambda *_: dataclasses.replace(batch, pixels=batch.pixels * float("inf"))
    )
    model.one_step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.sam.state_dict().items())


def test_hints_are_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hints = Hints(24, CPU)
    model = Promptable(build_sam(TINY))
    objective = Objective(model, hints)
    kept = {name.split(".")[0] for name, _ in hints.named_parameters()}
    assert kept == {"predict"}
    batch = batches().draw(4, 2, 80)
    adam = torch.optim.Adam(objective.parameters(), 1e-2)
    found = []
    for _ in range(60):
        loss = objective(batch, False, torch.Generator())["hints"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.9 * found[0]


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


def test_weights_files_keep_their_status_and_bad_ones_are_refused(tmp_path: Path) -> None:
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


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


SHORT = ("--steps", 2, "--pictures", 1, "--objects", 2, "--sizes", "0.5:80,0.5:160", "--device", "cpu")


def test_the_command_trains_and_resumes(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mini.safetensors"
    command = ("train", "--model", "mini", "--data", pairs, "--out", out, "--no-hints", *SHORT)
    stopped = invoke(*command, "--seconds", 0)
    assert "stopped early" in stopped.output, stopped.output
    done = invoke(*command)
    assert "training is complete" in done.output, done.output
    assert "step 2 of 2" in done.output
    weights = load_weights(GEOMETRIES["mini"], out)
    assert weights.status == "distilled"
    assert weights.trained_on == "3 pictures, 2 steps of 1, reordered block order"
    with Image.open(tmp_path / "new" / "mini.curve.png") as curve:
        assert curve.width == 1000


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


def test_an_estimate_says_memory_speed_and_hours_and_trains_nothing(pairs: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pth"
    torch.save(build_sam(GEOMETRIES["mini"]).state_dict(), teacher)
    out = tmp_path / "student.safetensors"
    said = invoke("distill", "--checkpoint", teacher, "--images", pairs, "--out", out, "--estimate", *SHORT)
    assert said.exit_code == 0, said.output
    for part in (
        r"10\.\d M parameters; weights and optimiser state: 0\.\d GB",
        r"measured 3 steps of 4 images: [\d.]+ images/s",
        r"peak memory: [\d.]+ GB",
        r"all 3 images once: 0\.00 hours",
        r"all 2 steps: 0\.00 hours",
    ):
        assert re.search(part, said.output), (part, said.output)
    assert not list(tmp_path.glob("student*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--out", "weights.pth"), r"--out weights\.pth must end in \.safetensors"),
        (("--sizes", "0.5:160"), "shares must add up to 1"),
        (("--sizes", "1:100"), "multiples of 16 up to 384"),
        (("--sizes", "1:400"), "multiples of 16 up to 384"),
        (("--sizes", "big"), "expected SHARE:PIXELS"),
        (("--data", "nowhere"), "nowhere is neither a folder nor a .json file"),
        (("--init", "no.pth"), "no.pth does not exist"),
    ],
)
def test_bad_options_get_one_sentence(
    pairs: Path, tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    command = ("train", "--model", "mini", "--data", pairs, "--out", tmp_path / "o.safetensors", *SHORT)
    said = invoke(*command, *change)
    assert said.exit_code == 1
    assert re.search(sentence, said.output), said.output
    assert len(said.output.splitlines()) == 1
    assert not list(tmp_path.glob("*.state"))


def test_label_maps_without_an_object_are_told(pairs: Path, tmp_path: Path) -> None:
    for path in pairs.glob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size).save(path)
    said = invoke("train", "--model", "mini", "--data", pairs, "--out", tmp_path / "o.safetensors", *SHORT)
    assert "none of the label maps holds an object" in said.output


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_state_that_does_not_fit_is_told(tmp_path: Path, content: bytes | None) -> None:
    state = tmp_path / "a.state"
    if content is None:
        torch.save({"objective": {}}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.state is damaged or of another training run; remove it"):
        trainer(state)


def test_two_processes_train_one_model(pairs: Path, tmp_path: Path) -> None:
    """What several GPUs do, on two CPU processes: both see their own pictures, one saves."""
    out = tmp_path / "two.safetensors"
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "pedsam",
        "train",
        "--model",
        "mini",
    ]
    launch += ["--data", str(pairs), "--out", str(out), "--no-hints", *map(str, SHORT)]
    for more, said in ((["--seconds", "0"], "stopped early"), ([], "training is complete")):
        line = [sys.executable, *launch, *more]
        done = subprocess.run(line, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(said) == 1
    assert load_weights(None, out).trained_on == "3 pictures, 2 steps of 2, reordered block order"
