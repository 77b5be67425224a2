"""Every stage through NVIDIA's own parser and builder (TensorRT for RTX, which needs no GPU for that)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from export.engines.builder import BuildJob, Built, MemoryRanOut, build
from export.exporter import largest_memory
from export.precision import STAGES
from stages.bundle import Bundle, shipped_bundle
from stages.engines.out_of_memory import wants_more_workspace
from stages.engines.plans import profile_shapes
from stages.engines.tensorrt_engine import tensorrt_library
from stages.errors import EngineError
from stages.streaming import PARTS

TRT: Any = tensorrt_library("tensorrt_rtx")


def on(fraction: float) -> bool:
    return True


def job_of(bundle: Bundle, name: str, **changes: Any) -> BuildJob:
    facts: dict[str, Any] = {
        "stage": name,
        "onnx": bundle.path / bundle.stage(name).file,
        "shapes": profile_shapes(bundle, name),
        "sm": "sm_86",
    }
    return BuildJob(**{**facts, **changes})


def looks_built(built: Built, bundle: Bundle, name: str) -> bool:
    """The plan holds the weights, in whatever precision, and running it takes near what export tells."""
    stored = sum((bundle.path / file).stat().st_size for file in bundle.stage(name).files)
    assert built.weights_bytes is not None
    assert built.activation_bytes is not None
    assert built.activation_bytes < 1.6 * largest_memory(bundle, name).activation_bytes + 10e6
    return memoryview(built.plan).nbytes > built.weights_bytes > 0.4 * stored and built.layers > 100


# What parses and builds

EDGE_AND_SITE = ("window", "global", "decoder")


@pytest.mark.parametrize("name", [*EDGE_AND_SITE, "whole"])
def test_every_stage_of_mini_builds(mini_bundle: Bundle, name: str) -> None:
    assert looks_built(build(TRT, job_of(mini_bundle, name), on), mini_bundle, name)


@pytest.mark.parametrize("name", EDGE_AND_SITE)
def test_every_stage_of_the_shipped_mini_builds(name: str) -> None:
    """Its weights are stored as fp16 and cast by the graph."""
    bundle = Bundle.load(shipped_bundle())
    assert looks_built(build(TRT, job_of(bundle, name), on), bundle, name)


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_the_global_stage_build(mini_streaming_bundle: Bundle, part: str) -> None:
    built = build(TRT, job_of(mini_streaming_bundle, part), on)
    assert memoryview(built.plan).nbytes > 0


@pytest.mark.full
@pytest.mark.parametrize("name", EDGE_AND_SITE)
@pytest.mark.parametrize("model", ["mini", "vit_b"])
def test_every_stage_builds_in_fp16(graphs: Callable[..., Bundle], model: str, name: str) -> None:
    bundle = graphs(model, "fp16")
    assert bundle.stage(name).precision == "fp16"
    assert looks_built(build(TRT, job_of(bundle, name), on), bundle, name)


@pytest.mark.full
@pytest.mark.parametrize("model", ["mini", "vit_b"])
def test_a_window_stage_that_decodes_tiles_builds_in_fp16(graphs: Callable[..., Bundle], model: str) -> None:
    bundle = graphs(model, "fp16", "dct:15/6")
    assert looks_built(build(TRT, job_of(bundle, "window"), on), bundle, "window")


@pytest.mark.full
@pytest.mark.parametrize("name", EDGE_AND_SITE)
def test_every_stage_of_vit_b_builds_in_fp32(exported: Callable[[str, str], Bundle], name: str) -> None:
    bundle = exported("vit_b", "float32")
    assert bundle.stage(name).precision == "fp32"
    assert looks_built(build(TRT, job_of(bundle, name), on), bundle, name)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("kind", ["fp16", "bf16", "dct:10/3", "fp16-8"])
def test_every_stage_of_a_tiny_model_builds(tiny: Callable[[str], Bundle], kind: str, name: str) -> None:
    bundle = tiny(kind)
    assert looks_built(build(TRT, job_of(bundle, name), on), bundle, name)


@pytest.mark.full
def test_the_global_stage_of_vit_b_in_fp16_fits_beside_others_on_8_gb(
    graphs: Callable[..., Bundle],
) -> None:
    """Sums of positions for all queries at once would take 805 MB; a block's are 50 MB."""
    built = build(TRT, job_of(graphs("vit_b", "fp16"), "global", workspace_bytes=200 << 20), on)
    assert built.activation_bytes is not None
    assert built.activation_bytes < 150e6


@pytest.mark.parametrize("sm", ["sm_80", "sm_89", "sm_120"])
def test_a_stage_builds_for_other_gpus(mini_bundle: Bundle, sm: str) -> None:
    assert memoryview(build(TRT, job_of(mini_bundle, "global", sm=sm), on).plan).nbytes > 1_000_000


# Progress


def test_progress_rises_to_the_end(mini_bundle: Bundle) -> None:
    seen: list[float] = []

    def note(fraction: float) -> bool:
        seen.append(fraction)
        return True

    build(TRT, job_of(mini_bundle, "global"), note)
    assert len(seen) > 100
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert seen == sorted(seen)
    assert seen[0] < 0.2
    assert seen[-1] == 1.0
    assert len(set(seen)) > 50


def test_a_build_can_be_stopped(mini_bundle: Bundle) -> None:
    calls: list[float] = []

    def stop(fraction: float) -> bool:
        calls.append(fraction)
        return False

    with pytest.raises(EngineError, match="cannot build stage global"):
        build(TRT, job_of(mini_bundle, "global"), stop)
    assert len(calls) == 1


# What does not


def with_node(path: Path, operator: str) -> Path:
    """A graph whose second node, "the_second", is of a type that the parser may not know."""
    nodes = [
        helper.make_node("Relu", ["a"], ["b"], name="the_first"),
        helper.make_node(operator, ["b"], ["c"], name="the_second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("a", "c")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("Det", "node 1, the_second, of type Det, is not supported"),
        ("Dett", "node 1, the_second, of type Dett: .*Plugin not found"),
    ],
)
def test_a_node_that_cannot_be_built_is_named(tmp_path: Path, operator: str, words: str) -> None:
    path = with_node(tmp_path / "model.onnx", operator)
    with pytest.raises(EngineError, match=f"stage window does not parse: {words}"):
        build(TRT, BuildJob("window", path, {}, "sm_86"), on)


def test_a_file_that_is_no_onnx_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"stage window does not parse: .*\(MODEL_DESERIALIZE_FAILED\)"):
        build(TRT, BuildJob("window", tmp_path / "model.onnx", {}, "sm_86"), on)


def test_weights_that_are_cut_off_are_a_sentence(mini_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copy(mini_bundle.path / "decoder/model.onnx", tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(b"too little")
    with pytest.raises(EngineError, match=r"stage decoder does not parse: .*Failed to import initializer"):
        build(TRT, job_of(mini_bundle, "decoder", onnx=tmp_path / "model.onnx"), on)


def test_shapes_that_a_graph_cannot_take_are_a_sentence(mini_bundle: Bundle) -> None:
    shapes = {**profile_shapes(mini_bundle, "window"), "index": ((1, 2), (8, 2), (25, 2))}
    with pytest.raises(EngineError, match=r"cannot build stage window: .*index"):
        build(TRT, job_of(mini_bundle, "window", shapes=shapes), on)


@pytest.mark.parametrize("workspace", [1 << 16, 1 << 22])
def test_a_workspace_that_is_too_small_is_memory_that_ran_out(mini_bundle: Bundle, workspace: int) -> None:
    with pytest.raises(MemoryRanOut) as ran_out:
        build(TRT, job_of(mini_bundle, "global", workspace_bytes=workspace), on)
    assert wants_more_workspace(str(ran_out.value), workspace)


class Watched:
    """The module itself, whose configurations can be looked at afterwards."""

    def __init__(self) -> None:
        self.configs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(TRT, name)

    def Builder(self, logger: Any) -> WatchedBuilder:  # noqa: N802
        return WatchedBuilder(TRT.Builder(logger), self.configs)


class WatchedBuilder:
    def __init__(self, builder: Any, configs: list[Any]) -> None:
        self._builder = builder
        self._configs = configs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def create_builder_config(self) -> Any:
        self._configs.append(self._builder.create_builder_config())
        return self._configs[-1]


@pytest.mark.parametrize(("given", "level"), [(None, 3), (1, 1), (0, 0)])
def test_the_optimisation_level_and_the_workspace_reach_the_builder(
    mini_bundle: Bundle, given: int | None, level: int
) -> None:
    watched = Watched()
    job = job_of(mini_bundle, "global", optimization_level=given, workspace_bytes=64 << 20)
    assert looks_built(build(watched, job, on), mini_bundle, "global")
    (config,) = watched.configs
    assert config.builder_optimization_level == level
    assert config.get_memory_pool_limit(TRT.MemoryPoolType.WORKSPACE) == 64 << 20


def test_what_the_builder_cannot_do_names_the_node(mini_bundle: Bundle) -> None:
    """TensorRT for RTX multiplies fp32 matrices on Ampere and later only."""
    with pytest.raises(EngineError, match=r"cannot build stage global: .*'node_.*FP32 GEMM is not supported"):
        build(TRT, job_of(mini_bundle, "global", sm="sm_75"), on)


def test_a_gpu_that_tensorrt_for_rtx_does_not_know_is_named(mini_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"builds for sm_75, sm_80, sm_86, sm_89, .*, not for sm_87"):
        build(TRT, job_of(mini_bundle, "global", sm="sm_87"), on)


def test_the_parser_knows_the_graph_of_the_failing_tests(tmp_path: Path) -> None:
    """So that what they find is the one node, not the graph around it."""
    onnx.checker.check_model(onnx.load(with_node(tmp_path / "model.onnx", "Neg")))
    assert build(TRT, BuildJob("window", tmp_path / "model.onnx", {}, "sm_86"), on).layers == 2
