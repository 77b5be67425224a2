"""Prompts drawn from true masks, as a person would give them: noisy boxes, clicks, corrections."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def noisy_boxes(masks: Tensor, generator: torch.Generator, noise: float = 0.05) -> Tensor:
    """Boxes around masks bool [n, S, S], corners [n, 2, 2], x before y, moved by `noise` of a side.

    The spread is 20 of 1024 pixels at most. Source: SAM (arXiv 2304.02643), appendix A, "Training algorithm";
    half its noise, since boxes of small objects carry most of what is known about them.
    """
    size = masks.shape[-1]
    rows, cols = masks.any(dim=2).float(), masks.any(dim=1).float()
    steps = torch.arange(size, device=masks.device)
    low = torch.stack([(cols * (size - steps)).argmax(1), (rows * (size - steps)).argmax(1)], dim=1)
    high = torch.stack([(cols * steps).argmax(1), (rows * steps).argmax(1)], dim=1)
    corners = torch.stack([low, high + 1], dim=1).float()
    spread = ((high - low)[:, None].float() * noise).clamp(max=size * 20 / 1024)
    moved = corners + spread * torch.randn(corners.shape, generator=generator, device=masks.device)
    return moved.clamp(0, size)


def clicks(masks: Tensor, generator: torch.Generator, stray: float = 0.5) -> Tensor:
    """One point in each mask bool [n, S, S], x before y, [n, 1, 2]: a share `stray` anywhere, the others well
    inside."""
    coarse = F.max_pool2d(masks.float()[:, None], 2)[:, 0]
    anywhere = torch.rand(coarse.shape, generator=generator, device=masks.device)
    rows = F.avg_pool2d(coarse[:, None], (25, 1), stride=1, padding=(12, 0))
    deep = F.avg_pool2d(rows, (1, 25), stride=1, padding=(0, 12))[:, 0] + 0.01 * anywhere
    which = torch.rand((len(masks), 1, 1), generator=generator, device=masks.device) < stray
    score = torch.where(which, anywhere, deep) * coarse
    best = score.flatten(1).argmax(1)
    return (
        torch.stack([best % coarse.shape[2] * 2, best // coarse.shape[2] * 2], dim=1)[:, None].float() + 0.5
    )


def corrections(logits: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A click on what a prediction got wrong: coords [n, 1, 2] and labels [n, 1], 1 if it missed object.

    `logits` and `masks` are [n, M, M] at low resolution; where nothing is wrong it falls on the object.
    """
    wrong = (logits > 0) != (masks > 0.5)
    wrong = torch.where(wrong.any(dim=(1, 2), keepdim=True), wrong, masks > 0.5)
    score = torch.rand(wrong.shape, generator=generator, device=wrong.device) * wrong
    best = score.flatten(1).argmax(1)
    side = masks.shape[-1]
    coords = torch.stack([best % side, best // side], dim=1)[:, None].float() * 4 + 1.5
    labels = (masks.flatten(1).gather(1, best[:, None]) > 0.5).float()
    return coords, labels
