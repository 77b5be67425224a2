"""What an export lets pass and what it refuses: rounding of any size, and no graph that is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.checks.parity import compare_stage
from export.checks.tolerances import FLOOR, STEP, embedding_tolerance, rounding_noise, stage_tolerance
from export.exporter import ExportOptions, add_stage, empty_bundle, example_inputs, write_stage
from export.precision import stage_precisions
from export.sam import Sam, Weights, build_sam, randomise
from export.stages import StagePlan, stage_plans
from stages.bundle import Bundle, hash_files
from stages.errors import ParityError
from stages.tensors import TensorSpec
from tests.support.bundles import TINY


def test_the_formulas() -> None:
    assert stage_tolerance("float32", 0.0) == FLOOR
    assert stage_tolerance("float32", 1e-4) == 32e-4
    assert stage_tolerance("int8", 0.0) == 1 / 127 + FLOOR
    assert stage_tolerance("float16", 1e-4) == STEP["float16"] + 32e-4
    assert embedding_tolerance(["fp32", "fp32"]) == FLOOR
    assert embedding_tolerance(["fp16", "fp32"]) == 2.0**-6
    assert embedding_tolerance(["fp16", "bf16"]) == 2.0**-3


class Cancels(nn.Module):
    """The difference of two long sums, thousands of times smaller than they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4096, 4), nn.Linear(4096, 4)
        self.b.weight.data = self.a.weight * (1 + 1e-5 * torch.randn(4, 4096))
        self.b.bias.data = self.a.bias.clone()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.a(x) - self.b(x))


def plan_of(module: nn.Module, x: Tensor) -> StagePlan:
    """A stage named window that maps x [n, K] to y [n, 4]."""
    inputs = (TensorSpec("x", "float32", ("n", x.shape[1])),)
    outputs = (TensorSpec("y", "float32", ("n", 4)),)
    return StagePlan("window", inputs, outputs, lambda: module, lambda generator: (x,))


def empty(path: Path, precision: str = "fp32") -> Bundle:
    options = ExportOptions(precisions=stage_precisions([precision]))
    return empty_bundle(Weights(tiny_sam(), TINY, "untrained", "random"), TINY, path, options)


def tiny_sam() -> Sam:
    sam = build_sam(TINY)
    randomise(sam)
    return sam


@torch.no_grad()
def test_a_right_graph_whose_sums_cancel_is_kept(tmp_path: Path) -> None:
    """What rounding changes is far more than FLOOR of such a small output, and is measured as such."""
    x = torch.randn((3, 4096), generator=torch.Generator().manual_seed(1))
    module = Cancels()
    bundle = add_stage(empty(tmp_path), plan_of(module, x), lambda line: None)
    parity, (noise,) = bundle.stage("window").parity["y"], rounding_noise(module, (x,), (module(x),))
    assert FLOOR < parity < stage_tolerance("float32", noise)


@torch.no_grad()
def test_a_wrong_graph_whose_sums_cancel_is_refused(tmp_path: Path) -> None:
    class Wrong(Cancels):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1.0 if torch.onnx.is_in_onnx_export() else 1.5)

    x = torch.randn((3, 4096), generator=torch.Generator().manual_seed(1))
    with pytest.raises(ParityError, match="stage window, output y differs by"):
        add_stage(empty(tmp_path), plan_of(Wrong(), x), lambda line: None)


@pytest.mark.parametrize("stage", ["global", "decoder"])
def test_a_graph_of_fp16_is_its_module_up_to_rounding_in_fp32(
    tiny: Callable[[str], Bundle], stage: str
) -> None:
    """No constant of the graph was rounded to fp16 that the module does not round."""
    assert max(tiny("fp16").stage(stage).parity.values()) < 5e-6


def perturb_a_weight(model: onnx.ModelProto) -> None:
    """One value of the matrix used last moves by a tenth of the largest."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    used = [name for node in products for name in node.input]
    tensor = [stored[name] for name in used if name in stored and len(stored[name].dims) > 1][-1]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += np.abs(values).max() / 10
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def turn_a_softmax(model: onnx.ModelProto) -> None:
    """The first softmax runs over queries, not over keys."""
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    next(attribute for attribute in node.attribute if attribute.name == "axis").i = -2


def swap_an_operator(model: onnx.ModelProto) -> None:
    """The last sum becomes a difference."""
    node = [node for node in model.graph.node if node.op_type == "Add"][-1]
    node.op_type = "Sub"


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["window", "global", "decoder"])
def written(
    request: pytest.FixtureRequest, precision: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, StagePlan, nn.Module]:
    """One stage of the tiny model as a graph, its plan and its module."""
    plans = stage_plans(tiny_sam(), TINY, "float16", stage_precisions([precision]))
    plan = next(plan for plan in plans if plan.name == request.param)
    module = plan.build().eval()
    with torch.no_grad():
        return write_stage(empty(tmp_path_factory.mktemp("written"), precision), plan, module), plan, module


@pytest.mark.parametrize("change", [perturb_a_weight, turn_a_softmax, swap_an_operator])
@torch.no_grad()
def test_a_wrong_graph_of_the_tiny_model_is_refused(
    written: tuple[Bundle, StagePlan, nn.Module], tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    bundle, plan, module = written
    stage = bundle.stage(plan.name)
    model = onnx.load(bundle.path / stage.file)
    change(model)
    path = tmp_path / stage.file
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")
    changed = replace(stage, files=hash_files(tmp_path, stage.files))
    wrong = replace(bundle, path=tmp_path, stages={plan.name: changed})
    with pytest.raises(ParityError, match=f"stage {plan.name}, output .* differs by"):
        compare_stage(wrong, plan, copy.deepcopy(module), example_inputs(plan))
