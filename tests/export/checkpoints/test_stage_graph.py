"""Tensors found in the forms that an exporter may give them, and not in others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from export.checkpoints.stage_graph import StageGraph
from export.modules import position_table
from export.sam import window_partition
from stages.tensors import Array
from tests.support.bundles import TINY

SIZE, HEAD = 6, 3  # queries along one axis and numbers of one head
ROWS, COLUMNS = (torch.randn(2 * SIZE - 1, HEAD, generator=torch.Generator().manual_seed(i)) for i in (0, 1))


def graph_of(path: Path, nodes: list[onnx.NodeProto], constants: Mapping[str, Array | Tensor]) -> StageGraph:
    """A graph that need not run: only its constants and nodes are looked at."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "stage", inputs, [], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path / "model.onnx")
    return StageGraph.load(path / "model.onnx", TINY)


def attention_nodes(parts: list[str], columns: str) -> list[onnx.NodeProto]:
    """An attention as far as it is looked at: each block of queries meets a part of the rows."""
    nodes = [helper.make_node("Add", ["x", "a.qkv.bias"], ["q"])]
    for part in parts:
        if part.startswith("cut"):
            nodes.append(helper.make_node("Slice", ["rows", "start", "stop"], [part]))
        nodes.append(helper.make_node("MatMul", ["q", part], [f"{part}_scores"]))
        nodes.append(helper.make_node("Transpose", ["q"], [f"{part}_turned"]))
        nodes.append(helper.make_node("MatMul", [f"{part}_turned", columns], [f"{part}_others"]))
    nodes.append(helper.make_node("MatMul", ["q", "a.proj.weight"], ["mixed"]))
    return [*nodes, helper.make_node("Add", ["mixed", "a.proj.bias"], ["y"])]


def attention(path: Path, rows: Tensor, parts: list[str]) -> StageGraph:
    """An attention with these matrices of rows [query, d, key]: whole in "rows", and in two halves."""
    half = SIZE // 2
    constants: dict[str, Array | Tensor] = {
        "a.qkv.bias": torch.ones(9),
        "a.proj.bias": torch.ones(3),
        "a.proj.weight": torch.ones(3, 3),
        "rows": rows,
        "first": rows[:half],
        "second": rows[half:],
        "columns": position_table(COLUMNS, SIZE),
        "start": np.array([0]),
        "stop": np.array([half]),
    }
    return graph_of(path, attention_nodes(parts, "columns"), constants)


@pytest.mark.parametrize(
    "parts", [["rows"], ["first", "second"], ["cut", "cut_2"]], ids=["whole", "folded", "cut as it runs"]
)
def test_tables_of_relative_positions(parts: list[str], tmp_path: Path) -> None:
    graph = attention(tmp_path, position_table(ROWS, SIZE), parts)
    for name, table in (("a.rel_pos_h", ROWS), ("a.rel_pos_w", COLUMNS)):
        found = graph.find(name, table.shape)
        assert found is not None
        assert torch.equal(found, table)


def gathered(path: Path, order: list[int]) -> StageGraph:
    """An attention as of vit_h: matrices are gathered from tables [2*SIZE - 1, d] as the graph runs."""
    places = torch.arange(SIZE)[:, None] - torch.arange(SIZE)[None] + SIZE - 1
    made = []
    for axis in ("rows", "columns"):
        made.append(helper.make_node("GatherND", [f"{axis}_table", "places"], [f"{axis}_gathered"]))
        made.append(helper.make_node("Transpose", [f"{axis}_gathered"], [axis], perm=order))
    constants: dict[str, Array | Tensor] = {
        "a.qkv.bias": torch.ones(9),
        "a.proj.bias": torch.ones(3),
        "a.proj.weight": torch.ones(3, 3),
        "rows_table": ROWS,
        "columns_table": COLUMNS,
        "places": places[..., None],
        "start": np.array([0]),
        "stop": np.array([SIZE // 2]),
    }
    return graph_of(path, [*made, *attention_nodes(["cut", "cut_2"], "columns")], constants)


def test_tables_of_which_the_graph_makes_matrices(tmp_path: Path) -> None:
    graph = gathered(tmp_path, [0, 2, 1])
    for name, table in (("a.rel_pos_h", ROWS), ("a.rel_pos_w", COLUMNS)):
        found = graph.find(name, table.shape)
        assert found is not None
        assert torch.equal(found, table)


def test_matrices_turned_in_another_way(tmp_path: Path) -> None:
    assert gathered(tmp_path, [1, 0, 2]).find("a.rel_pos_h", ROWS.shape) is None


def test_matrices_that_no_table_makes(tmp_path: Path) -> None:
    other = position_table(ROWS, SIZE).clone()
    other[3, 1, 3] += 1
    assert attention(tmp_path, other, ["rows"]).find("a.rel_pos_h", ROWS.shape) is None


def test_half_of_a_table(tmp_path: Path) -> None:
    assert attention(tmp_path, position_table(ROWS, SIZE), ["first"]).find("a.rel_pos_h", ROWS.shape) is None


def test_a_position_embedding_is_that_of_all_windows(tmp_path: Path) -> None:
    whole = torch.randn(1, TINY.tokens, TINY.tokens, TINY.dim, generator=torch.Generator().manual_seed(0))
    windows = window_partition(whole, TINY.window)[0]
    found = graph_of(tmp_path, [], {"val_1": windows}).find("pos_embed", whole.shape)
    assert found is not None
    assert torch.equal(found, whole)
    windows[-1, -1, -1, 0] = 1  # beyond the canvas
    assert graph_of(tmp_path, [], {"val_1": windows}).find("pos_embed", whole.shape) is None


def test_one_of_two_tables_that_look_alike_is_not_chosen(tmp_path: Path) -> None:
    table = torch.arange(20.0).reshape(5, 4)
    name, shape = "prompts.point_embeddings.1.weight", torch.Size((1, 4))
    found = graph_of(tmp_path, [], {"val_1": table}).find(name, shape)
    assert found is not None
    assert torch.equal(found, table[2:3])
    assert graph_of(tmp_path, [], {"val_1": table, "val_2": -table}).find(name, shape) is None


def test_another_shape_is_not_taken(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, [], {"norm.weight": torch.ones(4)})
    assert graph.find("norm.weight", torch.Size((4,))) is not None
    assert graph.find("norm.weight", torch.Size((5,))) is None
