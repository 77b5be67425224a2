"""Memory of a graph: by hand on small ones, by size on those of an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.checks.memory import StageMemory, stage_memory
from stages.bundle import Bundle
from stages.errors import BundleError

KB = 1024


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x fp32 [n, 256] -> Neg -> Reshape -> MatMul with fp16 weights behind a Cast -> y -> Abs -> Abs -> z."""
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("MatMul", ["b", "wide"], ["y"]),
        helper.make_node("Abs", ["y"], ["c"]),
        helper.make_node("Abs", ["c"], ["z"]),
    ]
    initializers = [
        numpy_helper.from_array(np.ones((256, 512), np.float16), "w"),
        numpy_helper.from_array(np.array([-1, 256]), "shape"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 512]) for name in ("y", "z")]
    model = helper.make_model(helper.make_graph(nodes, "test", inputs, outputs, initializers))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("n", [1, 7])
def test_weights_and_peak_by_hand(graph: Path, n: int) -> None:
    """x and a are 1 KB a row, y, c and z 2 KB. The peak is at the last node, with y an output: y, c, z."""
    found = stage_memory(graph, {"n": n})
    assert found.weights_bytes == 256 * 512 * 4 + 2 * 8  # read by MatMul as fp32, and a shape
    assert found.activation_bytes == n * 6 * KB
    expected = "400.0 MB of weights, about 1.2 MB of activations by its graph"
    assert StageMemory(400_000_000, 1_250_000).text == expected


def test_an_axis_without_a_size_is_refused(graph: Path) -> None:
    with pytest.raises(BundleError, match=r"does not say how large x is; give sizes for all axes"):
        stage_memory(graph, {})


def memory(bundle: Bundle, stage: str, **axes: int) -> StageMemory:
    return stage_memory(bundle.verified_file(stage), axes)


def test_memory_of_an_export_follows_its_axes(tiny: Callable[[str], Bundle]) -> None:
    bundle = tiny("fp16")
    one, many = memory(bundle, "window", n=1), memory(bundle, "window", n=9)
    assert one.weights_bytes == many.weights_bytes
    assert many.activation_bytes == 9 * one.activation_bytes
    decoders = [memory(bundle, "decoder", p=p, k=2).activation_bytes for p in (1, 8)]
    assert decoders[1] == pytest.approx(8 * decoders[0], rel=0.1)


def test_weights_are_what_the_file_holds(tiny: Callable[[str], Bundle]) -> None:
    for precision in ("fp16", "bf16"):
        bundle = tiny(precision)
        stored = bundle.verified_file("global").with_name("model.onnx.data").stat().st_size
        assert memory(bundle, "global").weights_bytes == pytest.approx(stored, rel=0.1)


def test_attention_of_the_global_stage_is_bounded_by_its_blocks(mini_bundle: Bundle) -> None:
    """Three heads of 576 x 576 scores are 4 MB a copy; three copies at a time are the most."""
    assert memory(mini_bundle, "global").activation_bytes < 14e6
