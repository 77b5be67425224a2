"""Every node of every graph is one that the ONNX parser of TensorRT 10 takes, dtypes included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import onnx
import pytest
from onnx import TensorProto, helper

from export.precision import STAGES
from stages.bundle import Bundle, shipped_bundle
from stages.streaming import PARTS
from tests.export.engines.operator_table import AUXILIARY, DTYPES, INITIALIZERS, LARGEST_OPSET

PRODUCTS = ("MatMul", "Gemm", "Conv")
FP32_ONLY = ("LayerNormalization", "Softmax", "ReduceMean", "ReduceMax", "Pow", "Sqrt", "Sin", "Cos", "Gelu")


def problems(model: onnx.ModelProto) -> Iterator[str]:
    """What the table does not allow, one clause each."""
    if any(opset.domain or opset.version > LARGEST_OPSET for opset in model.opset_import):
        yield f"opsets {[(opset.domain, opset.version) for opset in model.opset_import]}"
    dtypes = dtypes_of(model)
    initializers = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in DTYPES:
            yield f"{node.op_type} is not taken"
            continue
        auxiliary = AUXILIARY.get(node.op_type, set())
        for i, name in enumerate(node.input):
            if i not in auxiliary and name and dtypes[name] not in DTYPES[node.op_type]:
                yield f"{node.op_type} of {dtypes[name]}"
            if i in INITIALIZERS.get(node.op_type, set()) and name and name not in initializers:
                yield f"{node.op_type} takes input {i} that is no initializer"


def dtypes_of(model: onnx.ModelProto) -> dict[str, str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: TensorProto.DataType.Name(dtype) for name, dtype in found.items()}


FIRST_BLOCK = "decoder.transformer.layers.0"
OF_THE_IMAGE = (
    "cross_attn_token_to_image.k_proj",
    "cross_attn_token_to_image.v_proj",
    "cross_attn_image_to_token.q_proj",
)


def graph_of(bundle: Bundle, stage: str) -> onnx.ModelProto:
    return onnx.load(bundle.verified_file(stage), load_external_data=False)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["fp16", "bf16", "dct:10/3", "fp16-8"])
def test_every_node_is_in_the_table(tiny: Callable[[str], Bundle], kind: str, stage: str) -> None:
    assert set(problems(graph_of(tiny(kind), stage))) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_node_of_fp32_is_in_the_table(mini_bundle: Bundle, stage: str) -> None:
    assert set(problems(graph_of(mini_bundle, stage))) == set()


@pytest.mark.parametrize("stage", ["window", "global", "decoder"])
def test_every_node_of_the_shipped_bundle_is_in_the_table(stage: str) -> None:
    assert set(problems(graph_of(Bundle.load(shipped_bundle()), stage))) == set()


@pytest.mark.parametrize("part", PARTS)
def test_every_node_of_the_parts_of_the_global_stage_is_in_the_table(
    mini_streaming_bundle: Bundle, part: str
) -> None:
    assert set(problems(graph_of(mini_streaming_bundle, part))) == set()


def one_node(op_type: str, dtype: int, opset: int = 20) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in (("x", [4]), ("y", None))]
    node = helper.make_node(op_type, ["x"], ["y"])
    graph = helper.make_graph([node], "one", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (one_node("Size", TensorProto.INT64), "Size is not taken"),
        (one_node("Sqrt", TensorProto.DOUBLE), "Sqrt of DOUBLE"),
        (one_node("Sqrt", TensorProto.FLOAT, 21), "opsets [('', 21)]"),
    ],
)
def test_the_table_is_looked_at(model: onnx.ModelProto, problem: str) -> None:
    assert list(problems(model)) == [problem]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_products_are_low_and_all_else_is_fp32(
    tiny: Callable[[str], Bundle], precision: str, dtype: str, stage: str
) -> None:
    model = graph_of(tiny(precision), stage)
    dtypes = dtypes_of(model)
    used = {(node.op_type, dtypes[node.input[0]]) for node in model.graph.node}
    products = {(op, found) for op, found in used if op in PRODUCTS}
    if stage == "decoder":  # points times frequencies, before the sine
        products.remove(("MatMul", "FLOAT"))
    assert {found for _, found in products} == {dtype}
    assert ("MatMul", dtype) in products
    assert {found for op, found in used if op in FP32_ONLY} == {"FLOAT"}
    residual = [dtypes[node.input[0]] for node in model.graph.node if node.op_type == "Add"]
    assert residual.count("FLOAT") >= 4


@pytest.mark.parametrize(("stage", "count"), [("window", 1), ("global", 1), ("whole", 2)])
def test_the_projection_is_the_only_product_of_fp32(
    tiny: Callable[[str], Bundle], stage: str, count: int
) -> None:
    model = graph_of(tiny("fp16-8"), stage)
    dtypes = dtypes_of(model)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    assert sum(dtypes[node.input[0]] == "FLOAT" for node in products) == count


def test_large_weights_are_plain_low_initializers(tiny: Callable[[str], Bundle]) -> None:
    for stage in ("window", "global", "decoder"):
        graph = graph_of(tiny("fp16"), stage).graph
        large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > 600]
        wide = {tensor.name for tensor in large if tensor.data_type == TensorProto.FLOAT}
        assert len(large) > 4
        # Tables that are added, not multiplied with: positions of tokens, of the image, and of points.
        assert len(wide) <= {"window": 1, "global": 0, "decoder": 4}[stage]
        cast = {node.input[0] for node in graph.node if node.op_type == "Cast"}
        # What a given mask adds in the decoder's first block is folded into [18, 128], in fp32, beside them.
        folded = {f"{FIRST_BLOCK}.{layer}.weight" for layer in OF_THE_IMAGE} if stage == "decoder" else set()
        assert cast & {tensor.name for tensor in graph.initializer} == folded
