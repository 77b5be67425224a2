"""Memory that a stage needs, from its ONNX file alone. Needs no torch.

Weights are the constants that operators read. The bound on activations runs the graph in its own order,
holds each tensor from the operator that makes it to the last that reads it, and lets no operator work in
place or be fused; reshapes are views. An engine that fuses needs less; what a kernel takes as workspace
comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stages.errors import BundleError

SHAPE_ARITHMETIC = ("Add", "Concat", "Gather", "Mul", "Reshape", "Slice", "Squeeze", "Unsqueeze")
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a stage's weights, and at most of its activations, inputs and outputs."""

    weights_bytes: int
    activation_bytes: int

    @property
    def text(self) -> str:
        weights, activations = self.weights_bytes / 1e6, self.activation_bytes / 1e6
        return f"weights {weights:.1f} MB, activations at most {activations:.1f} MB"


def stage_memory(path: Path, axes: Mapping[str, int]) -> StageMemory:
    """Memory of the graph in `path` when its dynamic axes have these sizes ({"n": 8}).

    Raises BundleError when a tensor's shape does not follow from them.
    """
    model = onnx.load(path, load_external_data=False)
    _fix_axes(model.graph, axes)
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
    """Give dynamic axes their sizes, and compute the shapes that the graph computes from those of its inputs,
    which ONNX's own inference follows only in part."""
    known = {tensor.name: tensor for tensor in graph.initializer if tensor.data_location != tensor.EXTERNAL}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in known.items()}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in axes:
                dim.dim_value = axes[dim.dim_param]
    del graph.value_info[:]  # sizes there still have names
    dims = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    for node in list(graph.node):
        if node.op_type == "Shape" and node.input[0] in dims:
            feeds = {node.input[0]: np.broadcast_to(np.float32(0), dims[node.input[0]])}
        elif node.op_type in SHAPE_ARITHMETIC and all(name in values for name in node.input):
            feeds = {name: values[name] for name in node.input}
        else:
            continue
        values[node.output[0]] = np.asarray(ReferenceEvaluator(node).run(None, feeds)[0])
        graph.initializer.append(numpy_helper.from_array(values[node.output[0]], node.output[0]))
        graph.node.remove(node)


def _tensor_bytes(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """Size of every tensor, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {tensor.name: _bytes(tensor.data_type, tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        tensor_type = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor_type.shape.dim]
        if not all(dim.HasField("dim_value") for dim in tensor_type.shape.dim):
            raise BundleError(f"{path} does not say how large {value.name} is; give sizes for all axes")
        sizes[value.name] = _bytes(tensor_type.elem_type, dims)
    return sizes


def _bytes(elem_type: int, dims: Iterable[int]) -> int:
    itemsize = 2 if elem_type == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    return math.prod(dims) * int(itemsize)


def _peak_bytes(graph: onnx.GraphProto, sizes: Mapping[str, int], constants: set[str]) -> int:
    """Largest sum of the sizes of tensors that live at one time."""
    owner = _owners(graph)
    last_use = {owner[name]: i for i, node in enumerate(graph.node) for name in node.input if name in owner}
    outputs = {owner[value.name] for value in graph.output}
    live = {value.name: sizes[value.name] for value in graph.input}
    peak = sum(live.values())
    for i, node in enumerate(graph.node):
        for name in _made(node, owner, constants):
            live[name] = sizes[name]
        peak = max(peak, sum(live.values()))
        for name in [name for name in live if last_use.get(name, -1) <= i and name not in outputs]:
            del live[name]
    return peak


def _owners(graph: onnx.GraphProto) -> dict[str, str]:
    """The tensor whose memory each tensor uses: its own, or what it is a view of."""
    owner = {value.name: value.name for value in graph.input}
    for node in graph.node:
        for name in node.output:
            owner[name] = owner.get(node.input[0], name) if node.op_type in VIEWS else name
    return owner


def _made(node: onnx.NodeProto, owner: Mapping[str, str], constants: set[str]) -> Iterator[str]:
    return (name for name in node.output if name and owner[name] == name and name not in constants)
