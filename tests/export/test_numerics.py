"""fp16 on photographs, by rounding every fp16 tensor: no overflow, the same masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.check_pictures import check_pictures, made_picture, resized
from export.numerics import measure_numerics
from export.precision import stage_precisions
from export.rounding import Peak, run_rounded
from export.sam import Sam, build_sam, load_weights, randomise
from export.stages import StagePlan, stage_plans
from runtime import demo
from stages.errors import InputError, ParityError
from stages.geometry import GEOMETRIES
from tests.pictures import photo

MINI = GEOMETRIES["mini"]
WEIGHTS = Path(__file__).parent.parent.parent / "assets/mini.safetensors"


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


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


@pytest.fixture(scope="module")
def trained() -> Sam:
    return load_weights(MINI, WEIGHTS).sam


def plans(sam: Sam, *precisions: str) -> tuple[StagePlan, ...]:
    return stage_plans(sam, MINI, "float16", stage_precisions(precisions))


def test_fp32_modules_are_not_rounded(trained: Sam) -> None:
    global_stage = plans(trained)[1]
    (embedding,) = global_stage.examples(torch.Generator().manual_seed(1))
    module = global_stage.build()
    assert torch.equal(run_rounded(module, [embedding.float()]), module(embedding.float()))


def test_trained_mini_in_fp16_gives_the_masks_of_fp32_on_photographs(trained: Sam) -> None:
    photos = [resized(demo.photo(name), MINI) for name in ("astronaut", "coffee")]
    found = measure_numerics(plans(trained), plans(trained, "fp16"), MINI, photos)
    assert len(found.ious) == 20
    assert sum(found.ious) / 20 >= 0.997
    assert min(found.ious) >= 0.95
    assert 0 < found.embedding < 2e-3
    assert all(1 < peak.value < 6550 for peak in found.peaks.values())  # ten times as far from overflow
    assert set(found.peaks) == {"window", "global", "decoder"}


PLANTED = {
    "window": "image_encoder.blocks.4.attn.qkv.weight",
    "global": "image_encoder.neck.0.weight",
    "decoder": "mask_decoder.transformer.layers.0.mlp.lin1.weight",
}


@pytest.mark.parametrize("stage", PLANTED)
def test_a_planted_overflow_fails(stage: str) -> None:
    sam = load_weights(MINI, WEIGHTS).sam
    tensor = sam.state_dict()[PLANTED[stage]]
    tensor *= 5e4 / tensor.abs().max()  # the weights themselves stay in range
    photos = [resized(photo("16:9"), MINI)]
    with pytest.raises(ParityError, match=f"stage {stage} overflows float16 in .*; nothing was kept"):
        measure_numerics(plans(sam), plans(sam, f"{stage}=fp16"), MINI, photos)


def test_bf16_does_not_overflow_where_fp16_does() -> None:
    sam = load_weights(MINI, WEIGHTS).sam
    tensor = sam.state_dict()[PLANTED["global"]]
    tensor *= 5e4 / tensor.abs().max()
    found = measure_numerics(plans(sam), plans(sam, "global=bf16"), MINI, [resized(photo("16:9"), MINI)])
    assert found.peaks["global"].value > 65504
    assert not found.peaks["global"].overflowed


def test_a_window_of_vit_b_in_fp16_is_that_of_fp32() -> None:
    """The rest of vit_b takes minutes on a CPU: benchmarks/precision.py measures it."""
    geometry = GEOMETRIES["vit_b"]
    sam = build_sam(geometry)
    randomise(sam)
    picture = torch.from_numpy(resized(photo("4:3"), geometry)[:224, 224:448].copy())[None]
    inputs = (picture, torch.tensor([[1]], dtype=torch.int32), torch.tensor([[224, 224]], dtype=torch.int32))
    exact = stage_plans(sam, geometry, "float32")[0].build()(*inputs)[0]
    low = stage_plans(sam, geometry, "float32", stage_precisions(["fp16"]))[0].build()
    peak = Peak()
    difference = (run_rounded(low, inputs, peak)[0] - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 3e-3
    assert not peak.overflowed


def test_pictures_come_from_a_folder_or_are_made(tmp_path: Path) -> None:
    made = made_picture(MINI)
    assert made.shape == (288, 384, 3)
    assert (made.min(), made.max()) == (0, 255)
    assert (made_picture(MINI) == made).all()
    with pytest.raises(InputError, match="pictures"):
        check_pictures(MINI, tmp_path)
