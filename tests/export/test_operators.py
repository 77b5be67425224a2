"""Every node of every stage is of a type, and computes in a type, that TensorRT 10 documents.

The parser in these tests is newer than the 10.3 of JetPack 6.2, so what it takes is no evidence for that one.
The table is what onnx-tensorrt documents in docs/operators.md at its 10.1 release, for the operators in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto

from stages.bundle import Bundle, shipped_bundle

OPSET = 20  # the latest that 10.1 documents
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ANY = NUMBERS | {TensorProto.BOOL}
SUPPORTED = {
    **dict.fromkeys(("Clip", "Conv", "ConvTranspose", "Cos", "Erf", "Exp", "Gemm"), FLOATS),
    **dict.fromkeys(("LayerNormalization", "MatMul", "Pow", "QuantizeLinear", "Reciprocal"), FLOATS),
    **dict.fromkeys(("Sin", "Softmax", "Sqrt", "Tanh"), FLOATS),
    **dict.fromkeys(("Abs", "Add", "Div", "Equal", "Gelu", "Greater", "Less", "Max", "Min", "Mod"), NUMBERS),
    **dict.fromkeys(("Mul", "Neg", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Sub"), NUMBERS),
    **dict.fromkeys(("Concat", "Constant", "Expand", "Gather", "GatherND", "Identity", "Reshape"), ANY),
    **dict.fromkeys(("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"), ANY),
    "And": {TensorProto.BOOL},
    "Cast": ANY | {TensorProto.UINT8},
}
# These take what the table says of the second input only as a constant of the graph.
CONSTANT_AXES = {"ReduceMax": 1, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1}

# PyTorch's remainder of the window's index compares two booleans. The table has no such Equal; a window stage
# that looks the tokens on the canvas up in a table has none either.
KNOWN = "(Equal) takes BOOL"


def problems(model: ModelProto) -> Iterator[str]:
    """A clause for every node that TensorRT 10 does not document."""
    types = types_of(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        what = f"{node.name or node.output[0]} ({node.op_type})"
        if node.op_type not in SUPPORTED:
            yield f"{what} is not documented"
            continue
        for name in data_inputs(node):
            if types[name] not in SUPPORTED[node.op_type]:
                yield f"{what} takes {TensorProto.DataType.Name(types[name])}"
        axes = CONSTANT_AXES.get(node.op_type)
        if axes is not None and len(node.input) > axes and node.input[axes] not in constants:
            yield f"{what} has axes that are computed"


def data_inputs(node: NodeProto) -> list[str]:
    """Inputs that are computed with: not the zero point of a quantisation, nor indices and axes."""
    if node.op_type in ("QuantizeLinear", "Reshape", "Expand", "Gather", "GatherND", "Slice", "Pad"):
        return [node.input[0]]
    return [name for name in node.input if name]


def types_of(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def check(bundle: Bundle) -> None:
    for name, stage in bundle.stages.items():
        if not bundle.has(name):
            continue
        model = onnx.load(bundle.path / stage.file, load_external_data=False)
        assert [entry.version for entry in model.opset_import if not entry.domain] == [OPSET]
        assert not model.functions
        assert [found for found in problems(model) if not found.endswith(KNOWN)] == [], name


@pytest.mark.parametrize(("model", "dtype"), [("mini", "float16"), ("mini", "float32"), ("vit_b", "float32")])
def test_stages_use_what_tensorrt_10_documents(
    exported: Callable[[str, str], Bundle], model: str, dtype: str
) -> None:
    check(exported(model, dtype))


def test_the_shipped_stages_do_too() -> None:
    check(Bundle.load(shipped_bundle()))


def test_what_is_not_documented_is_found() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        graph (uint8[4] a, int64[1] axes) => (float[4] c, uint8[1,4] e, bool[4] f) {
            [named] b = Cast <to = 1> (a)
            [rounded] c = Round (b)
            [turned] d = Transpose (a)
            [wider] e = Unsqueeze (d, axes)
            [negated] f = IsNaN (b)
        }""")
    assert list(problems(model)) == [
        "rounded (Round) is not documented",
        "turned (Transpose) takes UINT8",
        "wider (Unsqueeze) takes UINT8",
        "wider (Unsqueeze) has axes that are computed",
        "negated (IsNaN) is not documented",
    ]
