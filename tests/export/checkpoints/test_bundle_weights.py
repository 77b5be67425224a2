"""Weights read back from a bundle are those it was exported from; what cannot be read is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from export.checkpoints.bundle_weights import load_bundle_weights, weights_of
from export.checkpoints.load import load_weights, save_weights
from export.compact import round_weights
from export.exporter import ExportOptions, empty_bundle, write_stage
from export.layers import lowered
from export.sam import Sam, Weights, build_sam
from export.stages import stage_plans
from stages.bundle import MANIFEST, Bundle, hash_files, shipped_bundle
from stages.errors import BundleError
from stages.geometry import GEOMETRIES, Geometry
from tests.support.bundles import TINY, random_weights
from tests.support.checkpoints import sam_state
from tests.support.engines import linked

TRAINED = Path(__file__).parents[3] / "assets/mini.safetensors"
# Each head sees 64 x 64 tokens, as vit_b's: its tables of relative positions lie in blocks of queries.
WIDE = Geometry("wide", 1024, 16, 14, 24, 12, 2, (1,))


@pytest.fixture
def compact(tiny: Callable[[str], Bundle]) -> Bundle:
    return tiny("compact")


def silent(text: str) -> None:
    """For what says something."""


def differing(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same bit for bit."""
    assert found.keys() == expected.keys()
    return [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]


def test_the_shipped_bundle_gives_the_trained_weights_back() -> None:
    """They lie beside it, before `--compact` rounded them."""
    bundle, trained = shipped_bundle(), load_weights(None, TRAINED)
    said: list[str] = []
    weights = weights_of(bundle, said.append)
    assert differing(weights.sam.state_dict(), round_weights(trained.sam).state_dict()) == []
    assert torch.equal(weights.sam.pixel_mean, trained.sam.pixel_mean)
    assert torch.equal(weights.sam.pixel_std, trained.sam.pixel_std)
    assert not weights.sam.training
    recorded = Bundle.load(bundle)
    assert (weights.geometry, weights.status) == (GEOMETRIES["mini"], "distilled")
    assert weights.trained_on == recorded.trained_on
    assert said == [f"{bundle}: {recorded.description} read back, which its export rounded to fp16"]


def test_fp32_stages_give_every_tensor_back_bit_for_bit(mini_bundle: Bundle) -> None:
    said: list[str] = []
    weights = weights_of(mini_bundle.path, said.append)
    assert differing(weights.sam.state_dict(), random_weights(GEOMETRIES["mini"]).sam.state_dict()) == []
    assert (weights.status, weights.trained_on) == ("untrained", "random numbers")
    assert said == [f"{mini_bundle.path}: mini (untrained weights) read back"]


def test_compact_stages_give_the_rounded_weights_back(compact: Bundle, tiny_weights: Weights) -> None:
    found = load_bundle_weights(compact).sam.state_dict()
    assert differing(found, round_weights(tiny_weights.sam).state_dict()) == []


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_stages_of_a_lower_precision_give_what_they_compute_with(
    tiny: Callable[[str], Bundle], tiny_weights: Weights, precision: str, dtype: torch.dtype
) -> None:
    weights = load_bundle_weights(tiny(precision))
    rounded = build_sam(TINY)
    rounded.load_state_dict(tiny_weights.sam.state_dict())
    expected = {name: tensor.float() for name, tensor in lowered(rounded, dtype).state_dict().items()}
    assert differing(weights.sam.state_dict(), expected) == []
    assert weights.trained_on == f"random numbers; rounded to {precision}"
    again = replace(tiny(precision), trained_on=weights.trained_on)
    assert load_bundle_weights(again).trained_on == weights.trained_on


def test_a_table_of_positions_in_blocks_of_queries(tmp_path: Path) -> None:
    """As large models have it. Every stage but the global one is the tiny model's, and not looked at."""
    weights = random_weights(WIDE)
    graph = written(weights, tmp_path, "global")
    tables = [node for node in onnx.load(graph).graph.node if node.op_type == "MatMul"]
    assert len(tables) > 40  # three a block of queries, and those of the layers
    found = load_bundle_weights
    raise NotImplementedError(found)


def written(weights: Weights, folder: Path, *stages: str) -> Path:
    raise NotImplementedError


