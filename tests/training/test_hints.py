"""Predicting an ImageNet network's features."""

from __future__ import annotations

from pathlib import Path

import torch

from export.sam import build_sam
from tests.support.training import CPU, TINY, batches
from training.hints import FeatureHintLoss
from training.objective import Objective
from training.promptable import Promptable


def test_hints_are_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hints = FeatureHintLoss(24, CPU)
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
