"""Both forms of attention against segment_anything's own, and the graph of the one for GPUs."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from benchmarks.attention_builds import built_layers, fused
from export.checkpoints.stage_graph import StageGraph
from export.layers import lowered
from export.modules import Form, attended, attention, positions_added, positions_in_product
from export.onnx_files import write_onnx
from export.sam import build_sam, randomise
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import TensorSpec
from tests.export.engines.operator_table import DTYPES

FORMS = (positions_added, positions_in_product)
SIDE, HEADS, BLOCKS = 16, 2, 3
MODEL = Geometry("wide", 16 * SIDE, 16, 4, 64, HEADS, 2, (1,))
SMALL = HEADS * SIDE**3 * 4 * 6  # scores of six rows of queries, of 16

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def layer() -> Any:
    """Of the global block, with tables that matter as much as keys."""
    sam = build_sam(MODEL)
    randomise(sam)
    found = sam.image_encoder.blocks[1].attn
    generator = torch.Generator().manual_seed(0)
    for table in (found.rel_pos_h, found.rel_pos_w):
        table.data.normal_(generator=generator)
    return found


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of six rows at a time, which makes this attention a large one."""
    monkeypatch.setattr("export.modules.SCORES_BYTES", SMALL)
    monkeypatch.setattr("export.modules.FUSED_SCORES_BYTES", SMALL)


def tokens(n: int = 2) -> Tensor:
    return torch.randn((n, SIDE, SIDE, MODEL.dim), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 5e-3), ("bfloat16", 4e-2)])
@pytest.mark.usefixtures("in_blocks")
def test_a_form_is_segment_anythings_attention(layer: Any, form: Form, dtype: str, tolerance: float) -> None:
    """To a fraction of the largest value, which a form without positions misses by a tenth and more."""
    expected = layer(tokens())
    found = attended(lowered(layer, getattr(torch, dtype)), tokens(), form)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < tolerance * expected.abs().max()
    blind = copy.deepcopy(layer)
    for table in (blind.rel_pos_h, blind.rel_pos_w):
        table.data.zero_()
    assert (attended(blind, tokens(), form) - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("model", "dtype", "window", "form"),
    [
        ("vit_b", "float16", False, positions_in_product),
        ("vit_h", "bfloat16", False, positions_in_product),
        ("vit_b", "float32", False, positions_added),
        ("vit_b", "float16", True, positions_added),
        ("mini", "float16", False, positions_added),
    ],
)
def test_large_attention_in_16_bits_has_its_positions_in_the_product(
    model: str, dtype: str, window: bool, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.qkv = geometry.heads, nn.Linear(1, 1, dtype=getattr(torch, dtype))

    geometry = GEOMETRIES[model]
    side = geometry.window if window else geometry.tokens
    chosen: list[Form] = []
    monkeypatch.setattr("export.modules.attended", lambda layer, x, given: chosen.append(given))
    attention(Layer(), torch.empty((1, side, side, 1), device="meta"))
    assert chosen == [form]


class Stage(nn.Module):
    """One attention as a graph names its tensors."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn = layer

    def forward(self, x: Tensor) -> Tensor:
        return attention(self.attn, x)


@pytest.fixture(scope="module")
def graph(layer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp16 attention of one picture in three blocks, as an export writes it."""
    path = tmp_path_factory.mktemp("attention") / "graph" / "model.onnx"
    spec = TensorSpec("x", "float32", tuple(tokens(1).shape))
    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr("export.modules.SCORES_BYTES", SMALL)
        patched.setattr("export.modules.FUSED_SCORES_BYTES", SMALL)
        stage = Stage(lowered(layer, torch.float16))
        write_onnx(stage, [tokens(1)], [spec], [TensorSpec("y", "float32", spec.shape)], path)
    return path


def test_its_graph_computes_it_by_operators_that_tensorrt_knows(layer: Any, graph: Path) -> None:
    nodes = Counter(node.op_type for node in onnx.load(graph, load_external_data=False).graph.node)
    assert nodes["Softmax"] == BLOCKS
    assert nodes.keys() <= DTYPES.keys()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": tokens(1).numpy()})
    expected = layer(tokens(1)).numpy()
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


def test_its_tables_are_found_in_the_graph(layer: Any, graph: Path) -> None:
    found = StageGraph.load(graph, MODEL)
    for name in ("rel_pos_h", "rel_pos_w"):
        table = found.find(f"attn.{name}", getattr(layer, name).shape)
        assert table is not None, name
        assert torch.equal(table, getattr(layer, name).half().float())


def test_tensorrt_makes_one_kernel_of_each_block(graph: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    layers, _ = built_layers(trt, graph, "sm_86")
    attentions = [layer["bytes"] for layer in layers if fused(layer)]
    assert len(attentions) == BLOCKS
    assert {len(tensors) for tensors in attentions} == {4}  # queries, keys, values and the result: no mask
