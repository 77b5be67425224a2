"""A compact export: the rounded weights' results from half the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.checks.parity import relative_difference
from export.compact import round_weights
from export.exporter import blank_window
from export.precision import STAGES
from export.sam import Sam, Weights, build_sam
from export.stages import StagePlan, as_numpy, stage_plans
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.tensors import Array
from tests.support.bundles import TINY

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def compact(tiny: Callable[[str], Bundle]) -> Bundle:
    return tiny("compact")


@pytest.fixture(scope="module")
def rounded(tiny_weights: Weights) -> Sam:
    """The same weights, rounded here."""
    return rounded_by_hand(tiny_weights.sam)


def rounded_by_hand(sam: Sam) -> Sam:
    state = {name: t.half().float() if t.numel() > 256 else t for name, t in sam.state_dict().items()}
    rounded = build_sam(TINY)
    rounded.load_state_dict(state)
    return rounded


def answers(bundle: Bundle, stage: str, feeds: dict[str, Array]) -> dict[str, Array]:
    engine = make_engine(bundle, stage)
    engine.open()
    try:
        return engine.infer(feeds)
    finally:
        engine.close()


def plan_of(sam: Sam, stage: str) -> StagePlan:
    return next(plan for plan in stage_plans(sam, TINY, "float32") if plan.name == stage)


def examples_of(plan: StagePlan) -> tuple[Tensor, ...]:
    return plan.examples(torch.Generator().manual_seed(5))


def feeds_of(plan: StagePlan) -> dict[str, Array]:
    return {spec.name: as_numpy(spec, t) for spec, t in zip(plan.inputs, examples_of(plan), strict=True)}


@pytest.mark.parametrize("stage", STAGES)
def test_it_computes_what_the_rounded_weights_compute(compact: Bundle, rounded: Sam, stage: str) -> None:
    plan = plan_of(rounded, stage)
    expected = plan.build()(*examples_of(plan))
    expected = expected if isinstance(expected, tuple) else (expected,)
    actual = answers(compact, stage, feeds_of(plan))
    for spec, tensor in zip(plan.outputs, expected, strict=True):
        step = 1 / 127 if spec.dtype == "int8" else 1e-5  # a value between two steps may fall to either side
        assert relative_difference(actual[spec.name], tensor.numpy()) <= step, spec.name


def test_weights_that_are_not_rounded_compute_something_else(compact: Bundle, tiny_weights: Weights) -> None:
    """Or the test above would show nothing."""
    plan = plan_of(tiny_weights.sam, "global")
    unrounded = plan.build()(*examples_of(plan)).numpy()
    found = answers(compact, "global", feeds_of(plan))["image_embedding"]
    assert relative_difference(found, unrounded) > 1e-4


def test_parity_is_measured_against_the_rounded_model(compact: Bundle) -> None:
    assert compact.parity["whole"] < 1e-5
    assert compact.stage("global").parity["image_embedding"] < 1e-5


def test_it_is_half_the_size(compact: Bundle, rounded: Sam) -> None:
    """Of the weights and tables of its stages in fp32; the graphs themselves are a few hundred kilobytes."""
    stored = sum((compact.path / f"{name}/model.onnx.data").stat().st_size for name in STAGES)
    modules = [plan_of(rounded, name).build() for name in STAGES]
    in_fp32 = sum(4 * tensor.numel() for module in modules for tensor in distinct_tensors(module))
    assert stored <= 0.55 * in_fp32
    for name in STAGES:
        found = {path.relative_to(compact.path).as_posix() for path in (compact.path / name).iterdir()}
        assert found == set(compact.stage(name).files) == {f"{name}/model.onnx", f"{name}/model.onnx.data"}


def distinct_tensors(module: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers of a module, each once."""
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}.values()


@pytest.mark.parametrize("stage", STAGES)
def test_large_weights_are_stored_once_as_fp16(compact: Bundle, stage: str) -> None:
    model = onnx.load(compact.verified_file(stage))
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    large = {name: array for name, array in tensors.items() if array.size > 256}
    floats = [array for array in large.values() if array.dtype == np.float32]
    if stage == "decoder":  # its table of positions is computed from weights: fp16 would not hold it exactly
        assert not any(np.array_equal(array, array.astype(np.float16)) for array in floats)
        assert max(array.size for array in floats) == 256 * TINY.tokens**2
    else:
        assert floats == []
    stored = {name for name, array in tensors.items() if array.dtype == np.float16}
    assert len(stored) > 5
    assert stored <= set(large)
    cast = [node.input[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored]
    assert sorted(cast) == sorted(stored)
    assert len({tensors[name].tobytes() for name in stored}) == len(stored)


def test_the_bundle_says_it(compact: Bundle) -> None:
    assert {compact.stage(name).precision for name in STAGES} == {"fp32 from fp16 weights"}


def test_probe_and_padding_are_what_the_compact_window_stage_answers(compact: Bundle) -> None:
    probe = compact.probe()
    answer = answers(compact, "window", dict(probe.inputs))["embedding"]
    assert relative_difference(answer, probe.embedding) < 1e-5
    blank = answers(compact, "window", blank_window(compact, 4))["embedding"]
    assert relative_difference(compact.padding_embeddings()[4:5], blank) < 1e-5


def test_the_callers_model_stays_as_it_was(tiny_weights: Weights) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_weights.sam.state_dict().items()}
    rounded = round_weights(tiny_weights.sam).state_dict()
    for name, tensor in tiny_weights.sam.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in rounded.items())
