"""The global stage in parts: equal to the whole one in whatever order rows come, and small beside it."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.checks.parity import check_streaming
from export.modules import GlobalStage, attention
from export.onnx_files import share_weights
from export.sam import Weights, window_unpartition
from export.streaming import AttendStage, FinishStage, ProjectStage
from stages.bundle import Bundle
from stages.engines.streaming_engine import StreamingEngine
from stages.errors import BundleError
from stages.streaming import PARTS, can_stream
from tests.support.bundles import TINY, tiny_bundle, tiny_streaming_bundle

GRID = TINY.grid


TOLERANCES = {"fp32": 1e-4, "compact": 1e-4, "fp16": 5e-3}


@pytest.fixture(scope="module", params=TOLERANCES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def streaming(request: pytest.FixtureRequest, kind: str) -> Bundle:
    """The tiny model with its parts, of this kind."""
    return tiny_streaming_bundle(request.config, kind)


@pytest.fixture(scope="module")
def plain(request: pytest.FixtureRequest) -> Bundle:
    return tiny_bundle(request.config, "float32")


@pytest.fixture(scope="module")
def in_fp32(request: pytest.FixtureRequest) -> Bundle:
    return tiny_streaming_bundle(request.config, "fp32")


def pairs_of(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each pair of rows once both have come in this order."""
    for count, row in enumerate(order):
        yield row, row
        for other in order[:count]:
            yield from ((row, other), (other, row))


def in_parts(weights: Weights, embedding: Tensor, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The attention of the first global block before its projection [1, E, E, D], and the image embedding."""
    g = TINY
    project, attend = ProjectStage(weights.sam, g), AttendStage(weights.sam, g)
    firsts = [torch.tensor([row * g.window], dtype=torch.int32) for row in range(GRID)]
    groups = [project(embedding[row * GRID : (row + 1) * GRID], firsts[row]) for row in range(GRID)]
    one = torch.zeros(g.heads, g.window * g.tokens, 1)
    running = dict.fromkeys(range(GRID), (one - torch.inf, one, torch.zeros_like(groups[0][3])))
    for query, key in pairs:
        rows = torch.tensor([query * g.window, key * g.window], dtype=torch.int32)
        running[query] = attend(groups[query][1], *groups[key][2:], rows, *running[query])
    attended = [running[row][2] for row in range(GRID)]
    first = torch.cat(attended, dim=1)[:, : g.tokens**2].transpose(0, 1).reshape(1, g.tokens, g.tokens, g.dim)
    return first, FinishStage(weights.sam, g)(*(group[0] for group in groups), *attended)


def first_attention(weights: Weights, embedding: Tensor) -> Tensor:
    """What `in_parts` is to be, from the attention of all rows at once."""
    g, block = TINY, weights.sam.image_encoder.blocks[TINY.global_blocks[0]]
    layer = copy.deepcopy(block.attn)
    layer.proj = nn.Linear(g.dim, g.dim, bias=False)
    layer.proj.weight.data = torch.eye(g.dim)
    side = (g.grid * g.window,) * 2
    return attention(layer, block.norm1(window_unpartition(embedding, g.window, side, (g.tokens, g.tokens))))


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a fraction of the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


@settings(max_examples=50)
@given(
    pairs=st.permutations(list(itertools.product(range(GRID), range(GRID)))),
    seed=st.integers(0, 2**32),
    size=st.sampled_from((1e-3, 1.0, 30.0)),
)
def test_any_order_of_pairs_equals_the_whole_stage(
    tiny_weights: Weights, pairs: list[tuple[int, int]], seed: int, size: float
) -> None:
    shape = (TINY.windows, TINY.window, TINY.window, TINY.dim)
    embedding = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        first, image = in_parts(tiny_weights, embedding, pairs)
        assert difference(first, first_attention(tiny_weights, embedding)) < 1e-5
        assert difference(image, GlobalStage(tiny_weights.sam, TINY)(embedding)) < 1e-4


@pytest.mark.usefixtures("no_grad")
def test_tokens_beyond_the_canvas_are_no_keys(tiny_weights: Weights) -> None:
    """Whatever a site answers there: 1e30 overflows in the norm."""
    embedding = torch.randn((TINY.windows, TINY.window, TINY.window, TINY.dim))
    other = embedding.clone()
    other[-GRID:, TINY.tokens % TINY.window :] = 1e30
    pairs = list(pairs_of(range(GRID)))
    for mine, theirs in zip(
        in_parts(tiny_weights, embedding, pairs), in_parts(tiny_weights, other, pairs), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_an_exported_bundle_computes_in_parts_what_it_computes_whole(streaming: Bundle, kind: str) -> None:
    assert can_stream(streaming)
    assert check_streaming(streaming, print)["streaming"] < TOLERANCES[kind]
    assert {streaming.stage(part).precision for part in PARTS} == {streaming.stage("global").precision}


def test_what_an_export_found_is_kept(in_fp32: Bundle) -> None:
    assert in_fp32.parity["streaming"] < TOLERANCES["fp32"]
    assert all(in_fp32.stage(part).parity for part in PARTS)


def test_parts_share_the_weights_of_the_global_stage(streaming: Bundle) -> None:
    for part in PARTS:
        stage = streaming.stage(part)
        assert set(stage.files) == {f"global/{part}.onnx", "global/model.onnx.data"}
        model = onnx.load(streaming.path / stage.file, load_external_data=False)
        inline = [tensor for tensor in model.graph.initializer if not tensor.external_data]
        assert sum(tensor.ByteSize() for tensor in inline) < 8_000, part


def test_no_weight_is_read_by_two_parts(in_fp32: Bundle) -> None:
    """So an edge that runs the parts holds each weight once."""
    read = [
        {(entry.value) for entry in tensor.external_data if entry.key == "offset"}
        for part in PARTS
        for tensor in onnx.load(
            in_fp32.path / in_fp32.stage(part).file, load_external_data=False
        ).graph.initializer
        if tensor.external_data
    ]
    offsets = [offset for each in read for offset in each]
    assert len(offsets) == len(set(offsets)) > 0


def test_a_part_that_was_changed_is_refused(in_fp32: Bundle, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(in_fp32.path, tmp_path / "bundle"))
    with (copied / "global/attend.onnx").open("ab") as file:
        file.write(b"\0")
    engine = StreamingEngine(Bundle.load(copied))
    with pytest.raises(BundleError, match=r"attend\.onnx differs from what bundle\.json records"):
        engine.open()


def test_a_bundle_is_not_exported_in_parts_unless_asked_for(plain: Bundle) -> None:
    assert not can_stream(plain)
    assert set(plain.stages) == {"window", "global", "decoder", "whole"}
    names = sorted(path.name for path in (plain.path / "global").iterdir())
    assert names == ["model.onnx", "model.onnx.data"]


def test_weights_that_the_other_graph_does_not_hold_are_not_shared(tmp_path: Path) -> None:
    for name, fill in (("a", 0.0), ("b", 1.0)):
        tensor = onnx.numpy_helper.from_array(np.full(600_000, fill, np.float32), "w")
        node = onnx.helper.make_node("Identity", ["w"], ["y"])
        out = onnx.helper.make_tensor_value_info("y", 1, [600_000])
        graph = onnx.helper.make_graph([node], name, [], [out], [tensor])
        onnx.save(
            onnx.helper.make_model(graph),
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
        )
    share_weights(tmp_path / "a.onnx", tmp_path / "a.onnx", tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").stat().st_size < 1000
    with pytest.raises(RuntimeError, match="holds no weights equal to w"):
        share_weights(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "other.onnx")
