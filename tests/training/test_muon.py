"""Muon of many matrices at once, compared with torch.optim.Muon."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.muon import Muon, orthogonalised


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in [(48, 16)] * 3 + [(16, 48)] * 2 + [(16, 16)]]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in parameters()]


def test_it_updates_as_torchs_own_does() -> None:
    ours, theirs = parameters(), parameters()
    begun = [p.detach().clone() for p in ours]
    muon = Muon(ours, lr=0.01, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for a, b, gradient in zip(ours, theirs, gradients(step), strict=True):
            a.grad, b.grad = gradient.clone(), gradient.clone()
        muon.step()
        reference.step()  # type: ignore[no-untyped-call]
    for a, b, start in zip(ours, theirs, begun, strict=True):
        assert (a - b).norm() < 0.02 * (b - start).norm()  # torch rounds to bf16


def test_a_cpu_computes_in_fp32() -> None:
    """bf16 is very slow on processors without it."""
    assert orthogonalised(torch.randn(2, 8, 4).bfloat16()).dtype == torch.float32


def test_a_step_that_overflowed_changes_nothing() -> None:
    matrices = parameters()
    muon = Muon(matrices, lr=0.01)
    before = [p.detach().clone() for p in matrices]
    for p in matrices:
        p.grad = torch.full_like(p, torch.nan)
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert all(torch.equal(p, b) for p, b in zip(matrices, before, strict=True))
    muon.found_inf = torch.tensor(0.0)
    for p, gradient in zip(matrices, gradients(0), strict=True):
        p.grad = gradient
    muon.step()
    assert all(p.isfinite().all() and not torch.equal(p, b) for p, b in zip(matrices, before, strict=True))
