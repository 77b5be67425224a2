"""Operators that onnx-tensorrt's parser takes, with their dtypes.

Facts of docs/operators.md of onnx-tensorrt as published with TensorRT 10.1 (opset 9 to 20); the changelogs of
10.2 and 10.3 only add to it. UINT8 exists as a network's input and output alone: elsewhere a Cast reads it.

Listed are the operators that graphs of this project may use. OneHot, NonZero, Resize, If, Loop and Scan are
published too but left out here: dynamic shapes and control flow are what breaks builds.
"""

from __future__ import annotations

LARGEST_OPSET = 20

_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
_NUMBERS = _FLOATS | {"INT32", "INT64"}
_ALL = _NUMBERS | {"BOOL"}

_OF_FLOATS = """Clip Conv ConvTranspose Cos Erf Exp Gemm LayerNormalization MatMul Pow QuantizeLinear
    Reciprocal Sigmoid Sin Softmax Sqrt"""
_OF_NUMBERS = """Abs Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Pad Range
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Sub"""
_OF_ALL = """Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Reshape
    Shape Slice Split Squeeze Tile Transpose Unsqueeze Where"""

DTYPES: dict[str, frozenset[str]] = {
    **dict.fromkeys(_OF_FLOATS.split(), _FLOATS),
    **dict.fromkeys(_OF_NUMBERS.split(), _NUMBERS),
    **dict.fromkeys(_OF_ALL.split(), _ALL),
    **dict.fromkeys(("And", "Not", "Or"), frozenset({"BOOL"})),
    "Cast": _ALL | {"UINT8"},
    "Gelu": _FLOATS | {"INT8", "INT32", "INT64"},
}

# Inputs of an operator whose dtype the table does not mean: they are indices, shapes, axes or a zero point.
AUXILIARY = {
    "Expand": {1},
    "Gather": {1},
    "GatherElements": {1},
    "GatherND": {1},
    "Pad": {1, 3},
    "QuantizeLinear": {2},
    "ReduceMax": {1},
    "ReduceMean": {1},
    "ReduceMin": {1},
    "ReduceSum": {1},
    "Reshape": {1},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Tile": {1},
    "Unsqueeze": {1},
    "Where": {0},
}
# Inputs that must be initializers.
INITIALIZERS = {
    "Pad": {3},
    "ReduceMax": {1},
    "ReduceMean": {1},
    "ReduceMin": {1},
    "ReduceSum": {1},
    "Slice": {3},
    "Squeeze": {1},
    "Unsqueeze": {1},
}
