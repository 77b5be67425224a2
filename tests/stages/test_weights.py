"""Numbers of weights by the dimensions, against real graphs, real modules and what engines said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest

from stages.bundle import Bundle
from stages.geometry import GEOMETRIES, Geometry
from stages.weights import stage_parameters

RESULTS = Path(__file__).parents[2] / "benchmarks/results/engine_memory.json"
# Parameters of segment_anything's image encoders, as `sum(p.numel() for p in encoder.parameters())` counts.
ENCODERS = {
    "mini": 6_269_888,
    "small": 10_638_080,
    "vit_b": 89_670_912,
    "vit_l": 308_278_272,
    "vit_h": 637_026_048,
}


def floats(path: Path) -> int:
    """Numbers in the floating-point tensors that a graph holds."""
    graph = onnx.load(path, load_external_data=False).graph
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(math.prod(tensor.dims) for tensor in graph.initializer if tensor.data_type in kinds)


@pytest.mark.parametrize("stage", ["window", "global", "decoder"])
def test_an_exported_stage_holds_as_many(mini_bundle: Bundle, stage: str) -> None:
    counted = stage_parameters(mini_bundle.geometry)[stage]
    held = floats(mini_bundle.path / mini_bundle.stage(stage).file)
    assert 0 <= held - (counted.products + counted.rest) < 20  # some constants of the graph
    stored = mini_bundle.path / f"{stage}/model.onnx.data"
    assert stored.stat().st_size == pytest.approx(counted.bytes("fp32"), rel=0.001)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_encoder_of_a_model_has_as_many(name: str) -> None:
    g = GEOMETRIES[name]
    parts = stage_parameters(g)
    total = sum(parts[stage].products + parts[stage].rest for stage in ("window", "global"))
    padding = (g.windows * g.window**2 - g.tokens**2) * g.dim
    tables = len(g.window_blocks) * spread(g, g.window) + len(g.global_blocks) * spread(g, g.tokens)
    assert total - padding - tables == ENCODERS[name]


def spread(g: Geometry, side: int) -> int:
    """By how much two tables of 2 * side - 1 rows grow when every query gets its own rows."""
    return 2 * (side**2 - (2 * side - 1)) * (g.dim // g.heads)


@pytest.mark.parametrize(
    "row",
    json.loads(RESULTS.read_text())["stages"],
    ids=lambda row: "-".join(map(str, list(row.values())[:3])),
)
def test_engines_take_as_much(row: dict[str, str | float | None]) -> None:
    """Those of vit_h a little less: its builder keeps the tables of positions as a checkpoint has them."""
    if row["weights_mb"] is not None:
        counted = stage_parameters(GEOMETRIES[str(row["model"])])[str(row["stage"])]
        assert row["weights_mb"] == pytest.approx(counted.bytes(str(row["precision"])) / 1e6, rel=0.04)


def test_precision_halves_the_products_alone() -> None:
    decoder = stage_parameters(GEOMETRIES["vit_b"])["decoder"]
    assert decoder.bytes("fp32") - decoder.bytes("fp16") == 2 * decoder.products
    assert decoder.bytes("bf16") == decoder.bytes("fp16")
    assert decoder.bytes("fp32 from fp16 weights") == decoder.bytes("fp32")
