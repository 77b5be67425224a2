"""Boxes, clicks and corrections drawn from true masks."""

from __future__ import annotations

import torch

from training.prompting import clicks, corrections, noisy_boxes


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
