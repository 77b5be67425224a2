"""Memory that a stage needs, from its ONNX file alone. Needs no torch.

Weights are the constants that operators read. Activations are what the graph takes when it runs in its own
order, holds each tensor from the operator that makes it to the last that reads it, and lets no operator work
in place or be fused; reshapes are views. An engine that fuses takes less, one whose kernels want workspace
more: TensorRT for RTX from 0.6 to 1.6 times as much, and 8 MB; a quarter where it fuses large attention in 16
bits. `pedsam build` prints what an engine takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stages.errors import BundleError
from stages.tensors import Array

SHAPE_ARITHMETIC = ("Shape", "Add", "Concat", "Gather", "Mul", "Reshape", "Slice", "Squeeze", "Unsqueeze")
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a stage's weights, and of its activations, inputs and outputs by its graph."""

    weights_bytes: int
    activation_bytes: int

    @property
    def text(self) -> str:
        weights, activations = self.weights_bytes / 1e6, self.activation_bytes / 1e6
        return f"{weights:.1f} MB of weights, about {activations:.1f} MB of activations by its graph"


def stage_memory(path: Path, axes: Mapping[str, int]) -> StageMemory:
    """Memory of the graph in `path` when its dynamic axes have these sizes ({"n": 8}).

    Raises BundleError when a tensor's shape does not follow from them.
    """
    model = onnx.load(path, load_external_data=False)
    _fix_axes(model.graph, axes)
    _fold_shapes(model.graph)
    constants = _constants(model.graph)
    sizes = _tensor_bytes(model, path)
    read = {name for node in model.graph.node for name in node.input if node.output[0] not in constants}
    weights = sum(sizes[name] for name in read & constants)
    return StageMemory(weights, _peak_bytes(model.graph, sizes, constants))


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Initializers, and what engines fold because it is computed from them alone."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in found for name in node.input if name):
            found.update(node.output)
    return found


def _fix_axes(graph: onnx.GraphProto, axes: Mapping[str, int]) -> None:
    """Give dynamic axes their sizes."""
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in axes:
                dim.dim_value = axes[dim.dim_param]
    del graph.value_info[:]  # sizes there still have names


def _fold_shapes(graph: onnx.GraphProto) -> None:
    """Compute what the graph computes from its inputs' shapes; ONNX's own inference follows that in part."""
    inline = (tensor for tensor in graph.initializer if tensor.data_location != tensor.EXTERNAL)
    known: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in inline}
    shaped: dict[str, Array] = {
        value.name: np.broadcast_to(np.float32(0), _dims(value)) for value in graph.input
    }
    for node in list(graph.node):
        values = shaped if node.op_type == "Shape" else known
        if node.op_type in SHAPE_ARITHMETIC and all(name in values for name in node.input):
            feeds = {name: values[name] for name in node.input}
            results: Any = ReferenceEvaluator(node).run(None, feeds)
            known[node.output[0]] = np.asarray(results[0])
            graph.initializer.append(numpy_helper.from_array(known[node.output[0]], node.output[0]))
            graph.node.remove(node)


def _tensor_bytes(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """Size of every tensor, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {tensor.name: _bytes(tensor.data_type, tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        if not all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            raise BundleError(f"{path} does not say how large {value.name} is; give sizes for all axes")
        sizes[value.name] = _bytes(value.type.tensor_type.elem_type, _dims(value))
    return sizes


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _bytes(elem_type: int, dims: Iterable[int]) -> int:
    itemsize = 2 if elem_type == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    return math.prod(dims) * int(itemsize)


def _peak_bytes(graph: onnx.GraphProto, sizes: Mapping[str, int], constants: set[str]) -> int:
    """Largest sum of the sizes of tensors that live at one time."""
    owner = _buffer_owners(graph)
    last_use = {owner[name]: i for i, node in enumerate(graph.node) for name in node.input if name in owner}
    outputs = {owner[value.name] for value in graph.output}
    live = {value.name: sizes[value.name] for value in graph.input}
    peak = sum(live.values())
    for i, node in enumerate(graph.node):
        for name in _allocated(node, owner, constants):
            live[name] = sizes[name]
        peak = max(peak, sum(live.values()))
        for name in [name for name in live if last_use.get(name, -1) <= i and name not in outputs]:
            del live[name]
    return peak


def _buffer_owners(graph: onnx.GraphProto) -> dict[str, str]:
    """The tensor whose memory each tensor uses: its own, or what it is a view of."""
    owner = {value.name: value.name for value in graph.input}
    for node in graph.node:
        for name in node.output:
            owner[name] = owner.get(node.input[0], name) if node.op_type in VIEWS else name
    return owner


def _allocated(node: onnx.NodeProto, owner: Mapping[str, str], constants: set[str]) -> Iterator[str]:
    return (name for name in node.output if name and owner[name] == name and name not in constants)
