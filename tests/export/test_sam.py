"""SAM models: the registry's geometry and random weights."""

from __future__ import annotations

import pytest
import torch

from export.sam import sam_model_registry
from stages.geometry import GEOMETRIES
from tests.support.bundles import random_weights


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_geometry_is_that_of_the_registry(name: str) -> None:
    geometry = GEOMETRIES[name]
    with torch.device("meta"):
        encoder = sam_model_registry[name]().image_encoder
    assert encoder.img_size == geometry.image_size
    assert encoder.pos_embed.shape == (1, geometry.tokens, geometry.tokens, geometry.dim)
    assert len(encoder.blocks) == geometry.depth
    assert encoder.patch_embed.proj.kernel_size == (geometry.patch, geometry.patch)
    for i, block in enumerate(encoder.blocks):
        assert block.window_size == (0 if i in geometry.global_blocks else geometry.window)
        assert block.attn.num_heads == geometry.heads
        positions = 2 * (geometry.tokens if i in geometry.global_blocks else geometry.window) - 1
        assert len(block.attn.rel_pos_h) == positions


def test_random_weights_are_nowhere_zero() -> None:
    for name, tensor in random_weights(GEOMETRIES["mini"]).sam.state_dict().items():
        assert (tensor != 0).all(), name
