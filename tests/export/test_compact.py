"""A compact export: the rounded weights' results from half the bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from export.exporter import ExportOptions, blank_window, export_bundle
from export.modules import GlobalStage
from export.parity import relative_difference
from export.sam import Sam, Weights, build_sam, randomise, save_weights
from export.stages import as_numpy, stage_plans
from pedsam import main
from stages.bundle import Bundle
from stages.engine import make_engine
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 2, (1,))  # seconds to export
STAGES = ("window", "global", "decoder", "whole")


@pytest.fixture(scope="module")
def weights() -> Weights:
    sam = build_sam(TINY)
    randomise(sam)
    return Weights(sam, TINY, "untrained", "random numbers")


@pytest.fixture(scope="module")
def compact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("compact") / "bundle"
    return export_bundle(weights, TINY, out, ExportOptions("float32", compact=True), lambda line: None)


@pytest.fixture(scope="module")
def normal(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An export of the same weights, rounded here, without --compact."""
    out = tmp_path_factory.mktemp("normal") / "bundle"
    rounded = replace(weights, sam=rounded_by_hand(weights.sam))
    return export_bundle(rounded, TINY, out, ExportOptions("float32"), lambda line: None)


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


def feeds_of(weights: Weights, stage: str) -> dict[str, Array]:
    plan = next(plan for plan in stage_plans(weights.sam, TINY, "float32") if plan.name == stage)
    tensors = plan.examples(torch.Generator().manual_seed(5))
    return {spec.name: as_numpy(spec, t) for spec, t in zip(plan.inputs, tensors, strict=True)}


@pytest.mark.parametrize("stage", STAGES)
def test_it_computes_what_the_rounded_weights_compute(
    weights: Weights, compact: Bundle, normal: Bundle, stage: str
) -> None:
    feeds = feeds_of(weights, stage)
    expected = answers(normal, stage, feeds)
    for name, actual in answers(compact, stage, feeds).items():
        assert relative_difference(actual, expected[name]) <= 1e-5, name


def test_weights_that_are_not_rounded_compute_something_else(weights: Weights, compact: Bundle) -> None:
    """Or the test above would show nothing."""
    feeds = feeds_of(weights, "global")
    with torch.no_grad():
        unrounded = GlobalStage(weights.sam, TINY)(torch.from_numpy(feeds["embedding"])).numpy()
    found = answers(compact, "global", feeds)["image_embedding"]
    assert relative_difference(found, unrounded) > 1e-4


def test_parity_is_measured_against_the_rounded_model(compact: Bundle) -> None:
    assert compact.parity["whole"] < 1e-5
    assert compact.stage("global").parity["image_embedding"] < 1e-5


def stage_bytes(bundle: Bundle) -> int:
    return sum((bundle.path / file).stat().st_size for s in STAGES for file in bundle.stage(s).files)


def test_it_is_half_the_size(compact: Bundle, normal: Bundle) -> None:
    assert stage_bytes(compact) <= 0.55 * stage_bytes(normal)
    for name in STAGES:
        found = {path.relative_to(compact.path).as_posix() for path in (compact.path / name).iterdir()}
        assert found == set(compact.stage(name).files) == {f"{name}/model.onnx", f"{name}/model.onnx.data"}


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


def test_the_bundle_says_it(compact: Bundle, normal: Bundle) -> None:
    assert {compact.stage(name).precision for name in STAGES} == {"fp32 from fp16 weights"}
    assert {normal.stage(name).precision for name in STAGES} == {"fp32"}
    assert compact.site_digest != normal.site_digest


def test_probe_and_padding_are_what_the_compact_window_stage_answers(compact: Bundle) -> None:
    probe = compact.probe()
    answer = answers(compact, "window", dict(probe.inputs))["embedding"]
    assert relative_difference(answer, probe.embedding) < 1e-5
    blank = answers(compact, "window", blank_window(TINY, 4))["embedding"]
    assert relative_difference(compact.padding_embeddings()[4:5], blank) < 1e-5


def test_the_callers_model_stays_as_it_was(weights: Weights, compact: Bundle) -> None:
    fresh = build_sam(TINY)
    randomise(fresh)
    for name, tensor in weights.sam.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_the_command_refuses_weights_that_fp16_cannot_hold(tmp_path: Path) -> None:
    sam = build_sam(GEOMETRIES["mini"])
    sam.image_encoder.neck[2].weight.data[0, 0, 0, 0] = 7e4
    save_weights(sam.state_dict(), tmp_path / "large.safetensors", "distilled", "a test")
    arguments = ["export", "--model", "mini", "--checkpoint", str(tmp_path / "large.safetensors")]
    result = CliRunner().invoke(main, [*arguments, "--compact", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Error: image_encoder.neck.2.weight has values beyond the range of fp16" in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "large.safetensors"]
