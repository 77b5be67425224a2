"""Graphs of every precision go through NVIDIA's own parser and builder, which need no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from export.precision import STAGES
from stages.bundle import Bundle

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
LARGEST = {"n": 25, "p": 16, "k": 16}


def build(bundle: Bundle, stage: str) -> Any:
    """The plan of a stage for sm_86 as a strongly typed network, or what the parser says."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.verified_file(stage))):
        return [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    if profile := _profile(builder, bundle, stage):
        config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def _profile(builder: Any, bundle: Bundle, stage: str) -> Any:
    dynamic = [
        spec for spec in bundle.stage(stage).inputs if any(isinstance(axis, str) for axis in spec.shape)
    ]
    if not dynamic:
        return None
    profile = builder.create_optimization_profile()
    for spec in dynamic:
        shapes = [
            [min(LARGEST[axis], size) if isinstance(axis, str) else axis for axis in spec.shape]
            for size in (1, 2, 25)
        ]
        profile.set_shape(spec.name, *shapes)
    return profile


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_it_builds(tiny_bundle: Callable[[str], Bundle], precision: str, stage: str) -> None:
    plan = build(tiny_bundle(precision), stage)
    assert plan is not None
    assert not isinstance(plan, list), plan
    assert plan.nbytes > 10_000


@pytest.mark.parametrize("stage", STAGES)
def test_fp32_builds(mini_bundle: Bundle, stage: str) -> None:
    plan = build(mini_bundle, stage)
    assert plan is not None
    assert not isinstance(plan, list), plan
