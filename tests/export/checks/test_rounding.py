"""Modules run as a GPU rounds: every fp16 tensor rounded, overflow kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from export.checks.pictures import resized
from export.checks.rounding import Peak, run_rounded
from export.precision import stage_precisions
from export.sam import Weights
from export.stages import stage_plans
from stages.geometry import GEOMETRIES
from tests.support.bundles import TINY, random_weights
from tests.support.pictures import photo

pytestmark = pytest.mark.usefixtures("no_grad")


class Product(nn.Module):
    """fp16 in, one product, fp16 out."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).half()
        self.layer.weight.data = weight.half()

    def forward(self, x: Tensor) -> Tensor:
        half: Tensor = self.layer(x.half())
        return half * 0.5


def test_every_operator_rounds_its_result_and_accumulates_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 300, generator=generator), torch.randn(7, 300, generator=generator)
    expected = ((x.half().float() @ weight.half().float().T).half().float() * 0.5).half()
    assert torch.equal(run_rounded(Product(weight), [x]), expected)


def test_an_overflow_stays_infinite_and_is_named() -> None:
    """Halving comes after: an engine that fuses would hide it, 2 * 300 * 300 being within twice the range."""
    peak = Peak()
    result = run_rounded(Product(torch.full((1, 2), 200.0)), [torch.full((1, 2), 200.0)], peak)
    assert result.isinf().all()
    assert peak.overflowed
    assert peak.where == "mm of layer"


def test_nan_is_an_overflow_too() -> None:
    peak = Peak()
    run_rounded(Product(torch.ones((1, 2))), [torch.full((1, 2), torch.nan)], peak)
    assert peak.overflowed


def test_the_peak_is_the_largest_value() -> None:
    peak = Peak()
    run_rounded(Product(torch.full((1, 2), -3.0)), [torch.full((1, 2), 8.0)], peak)
    assert (peak.value, peak.where, peak.overflowed) == (48.0, "mm of layer", False)


def test_fp32_modules_are_not_rounded(tiny_weights: Weights) -> None:
    global_stage = stage_plans(tiny_weights.sam, TINY, "float16")[1]
    (embedding,) = global_stage.examples(torch.Generator().manual_seed(1))
    module = global_stage.build()
    assert torch.equal(run_rounded(module, [embedding.float()]), module(embedding.float()))


@pytest.mark.full
def test_a_window_of_vit_b_in_fp16_is_that_of_fp32() -> None:
    """The rest of vit_b takes minutes on a CPU: benchmarks/precision.py measures it."""
    geometry = GEOMETRIES["vit_b"]
    sam = random_weights(geometry).sam
    tile = torch.from_numpy(resized(photo("4:3"), geometry)[:224, 224:448].copy()).reshape(1, -1)
    extent = torch.tensor([[0, 0, 224, 224]], dtype=torch.int32)
    inputs = (tile, torch.tensor([[1]], dtype=torch.int32), extent)
    exact = stage_plans(sam, geometry, "float32")[0].build()(*inputs)[0]
    low = stage_plans(sam, geometry, "float32", stage_precisions(["fp16"]))[0].build()
    peak = Peak()
    difference = (run_rounded(low, inputs, peak)[0] - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 3e-3
    assert not peak.overflowed
