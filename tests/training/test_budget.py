"""`--budget`, `--decoder-share` and `--half`: how long is trained, which parts how fast, what is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.checkpoints.load import load_weights, save_weights
from export.sam import build_sam
from stages.geometry import GEOMETRIES
from tests.support.training import SHORT, TINY, invoke, trainer
from training.objective import Objective
from training.promptable import Promptable
from training.trainer import TrainOptions, optimisers

MINI = GEOMETRIES["mini"]
DECODING = ("prompt_encoder.", "mask_decoder.")


def test_the_command_ends_with_its_budget(pairs: Path, tmp_path: Path) -> None:
    """However many steps are left; what it wrote is complete, and the same command has nothing to add."""
    out = tmp_path / "mini.safetensors"
    command = ("train", "--model", "mini", "--data", pairs, "--out", out, "--no-hints", *SHORT)
    budget = ("--steps", 10**6, "--sizes", "1:80", "--budget", 2)
    done = invoke(*command, *budget)
    assert "training is complete" in done.output, done.output
    trained_on = load_weights(MINI, out).trained_on
    steps = re.fullmatch(r"3 pictures, (\d+) steps of 1, reordered block order", trained_on)
    assert steps
    assert 0 < int(steps[1]) < 10**6
    again = invoke(*command, *budget)
    assert "training is complete" in again.output, again.output
    assert load_weights(MINI, out).trained_on == trained_on


def test_prompt_encoder_and_decoder_have_their_share_of_the_rate() -> None:
    objective = Objective(Promptable(build_sam(TINY)))
    options = TrainOptions(10, ((1.0, 80),), rate=1e-3, decoder_share=0.3)
    names = {parameter: name for name, parameter in objective.model.sam.named_parameters()}
    groups = [group for optimiser in optimisers(objective, options) for group in optimiser.param_groups]
    rates = {names[parameter]: group["full_rate"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)  # each in one group
    assert rates.keys() == {name for p, name in names.items() if p.requires_grad}
    for name, rate in rates.items():
        assert rate == pytest.approx(3e-4 if name.startswith(DECODING) else 1e-3), name


def test_a_share_of_nothing_leaves_the_decoder_as_it_is(tmp_path: Path) -> None:
    run = trainer(tmp_path / "a.state", decoder_share=0.0)
    before = {name: tensor.clone() for name, tensor in run.model.sam.state_dict().items()}
    run.one_step()
    changed = {name for name, t in run.model.sam.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(DECODING)]


def test_the_command_passes_the_share_on_and_rounds_weights_to_fp16(pairs: Path, tmp_path: Path) -> None:
    init, out = tmp_path / "init.safetensors", tmp_path / "out.safetensors"
    torch.manual_seed(0)
    before = build_sam(MINI).state_dict()
    save_weights(before, init, "distilled", "nothing")
    command = ("train", "--model", "mini", "--init", init, "--data", pairs, "--out", out, "--no-hints")
    done = invoke(*command, *SHORT, "--decoder-share", 0, "--half")
    assert "training is complete" in done.output, done.output
    after = load_file(out)
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    for name, tensor in after.items():
        if name.startswith(DECODING):
            assert torch.allclose(tensor.float(), before[name], rtol=1e-3, atol=1e-4), name
    moved = "image_encoder.blocks.0.attn.qkv.weight"
    assert not torch.equal(after[moved], before[moved].half())
