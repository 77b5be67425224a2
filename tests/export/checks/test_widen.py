"""A graph of a lower precision, widened to fp32: the same computation with the weights it stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from export.checks.parity import infer, relative_difference
from export.checks.widen import widened_stage
from export.precision import stage_precisions
from export.sam import Weights
from export.stages import as_numpy, stage_plans
from stages.bundle import Bundle
from tests.support.bundles import TINY

pytestmark = pytest.mark.usefixtures("no_grad")
LOW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_it_computes_in_fp32_what_the_stored_weights_say(
    tiny: Callable[[str], Bundle], tiny_weights: Weights, tmp_path: Path, precision: str
) -> None:
    widened = widened_stage(tiny(precision), "global", tmp_path)
    plan = stage_plans(tiny_weights.sam, TINY, "float32", stage_precisions([precision]))[1]
    examples = plan.examples(torch.Generator().manual_seed(3))
    module = plan.build().float()
    feeds = {
        spec.name: as_numpy(spec, t) for spec, t in zip(widened.stage("global").inputs, examples, strict=True)
    }
    found = infer(widened, "global", feeds)["image_embedding"]
    stored = torch.from_numpy(feeds["embedding"]).float()
    assert relative_difference(found, module(stored).numpy()) < 1e-4


@pytest.mark.parametrize("stage", ["window", "global", "decoder"])
def test_nothing_of_bf16_is_left(tiny: Callable[[str], Bundle], tmp_path: Path, stage: str) -> None:
    before = onnx.load(tiny("bf16").verified_file(stage), load_external_data=False)
    assert LOW & {tensor.data_type for tensor in before.graph.initializer}
    widened = widened_stage(tiny("bf16"), stage, tmp_path)
    after = onnx.load(widened.verified_file(stage), load_external_data=False).graph
    assert TensorProto.BFLOAT16 not in {tensor.data_type for tensor in after.initializer}
    assert TensorProto.BFLOAT16 not in {
        attribute.i for node in after.node if node.op_type == "Cast" for attribute in node.attribute
    }
    assert widened.stage(stage).precision == "fp32"
    assert [spec.name for spec in widened.stage(stage).outputs] == [value.name for value in after.output]
