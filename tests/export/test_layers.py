"""Layers in a lower precision: products alone, and no weight beyond its range."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.layers import lowered
from export.modules import GlobalStage, WindowStage
from export.sam import Sam, Weights
from stages.errors import CheckpointError
from tests.support.bundles import TINY


@pytest.fixture
def sam(tiny_weights: Weights) -> Sam:
    return tiny_weights.sam


def test_only_products_are_lowered_and_the_model_stays_as_it_was(sam: Sam) -> None:
    stage = lowered(WindowStage(sam, TINY, torch.float16), torch.float16)
    dtypes = {name: parameter.dtype for name, parameter in stage.named_parameters()}
    low = {name for name, dtype in dtypes.items() if dtype == torch.float16}
    assert low == {name for name in dtypes if "norm" not in name}
    assert {buffer.dtype for buffer in stage.buffers()} == {torch.float32, torch.bool}
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


def test_fp32_is_the_module_itself(sam: Sam) -> None:
    stage = GlobalStage(sam, TINY)
    assert lowered(stage, torch.float32) is stage


def test_a_weight_beyond_the_range_is_refused() -> None:
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, 7e4)
    layer = nn.Sequential(linear)
    with pytest.raises(CheckpointError, match=r"0\.weight has values beyond the range of float16"):
        lowered(layer, torch.float16)
    assert lowered(layer, torch.bfloat16) is not layer
