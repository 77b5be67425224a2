"""A stage's graph with its lower precision taken out: the weights it stores, computed with in fp32.

onnxruntime's CPU provider runs no bf16, and rounds fp16 in places of its own choice. The widened graph has
the same nodes and weights, so it can be compared with PyTorch to the tolerance of fp32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.precision import DTYPES
from stages.bundle import Bundle, hash_files
from stages.tensors import TensorSpec

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def widened_stage(bundle: Bundle, name: str, folder: Path) -> Bundle:
    """The bundle with stage `name`, of a lower precision, written to `folder` as an fp32 graph.

    Inputs and outputs of that precision become fp32 too.
    """
    stage = bundle.stage(name)
    model = onnx.load(bundle.path / stage.file)
    _widen(model, _TYPES[stage.precision])
    path = folder / stage.file
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")
    # A part of the global stage shares that one's weights; here it has its own.
    names = [each.relative_to(folder).as_posix() for each in path.parent.iterdir()]
    stage = replace(
        stage,
        files=hash_files(folder, names),
        inputs=_widened_specs(stage.inputs, DTYPES[stage.precision]),
        outputs=_widened_specs(stage.outputs, DTYPES[stage.precision]),
        precision="fp32",
    )
    return replace(bundle, path=folder, stages={name: stage})


def _widened_specs(specs: Iterable[TensorSpec], low: str) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, dtype="float32") if spec.dtype == low else spec for spec in specs)


def _widen(model: onnx.ModelProto, low: int) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == low:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor, low)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == low:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                _widen_tensor(attribute.t, low)


def _widen_tensor(tensor: onnx.TensorProto, low: int) -> None:
    if tensor.data_type == low:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
