"""Inputs for stage modules."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.geometry import Geometry


def decoder_example(g: Geometry) -> tuple[Tensor, ...]:
    """Two prompts: two points and a box with an earlier mask, and three points."""
    generator = torch.Generator().manual_seed(2)
    side, mask = g.tokens, g.mask_px
    return (
        torch.randn((1, 256, side, side), generator=generator),
        torch.rand((2, 4, 2), generator=generator) * g.image_size,
        torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 1.0, -1.0]]),
        torch.randn((2, 1, mask, mask), generator=generator),
        torch.tensor([[1.0], [0.0]]),
    )
