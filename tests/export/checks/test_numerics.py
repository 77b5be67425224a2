"""fp16 on photographs, by rounding every fp16 tensor: no overflow, the same masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoints.load import load_weights
from export.checks.numerics import measure_numerics
from export.checks.pictures import resized
from export.precision import stage_precisions
from export.sam import Sam
from export.stages import StagePlan, stage_plans
from runtime.demo import demo
from stages.errors import ParityError
from stages.geometry import GEOMETRIES
from tests.support.pictures import photo

MINI = GEOMETRIES["mini"]
WEIGHTS = Path(__file__).parents[3] / "assets/mini.safetensors"

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def trained() -> Sam:
    return load_weights(MINI, WEIGHTS).sam


def plans(sam: Sam, *precisions: str) -> tuple[StagePlan, ...]:
    return stage_plans(sam, MINI, "float16", stage_precisions(precisions))


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
