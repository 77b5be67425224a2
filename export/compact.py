"""Weights kept as fp16 while engines compute in fp32: half the size on disk.

Weights are rounded before anything else, so that every check of an export compares with the rounded model.
Storing them as fp16 then changes nothing: only initializers that fp16 holds exactly are stored so, and
engines turn them back when they load a graph (onnxruntime and TensorRT fold a Cast of a constant).
"""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import torch

from export.sam import Sam
from stages.errors import CheckpointError
from stages.tensors import Array

SMALL = 256  # elements up to which a tensor stays fp32: norms, biases and the table of point frequencies


@torch.no_grad()
def round_weights(sam: Sam) -> Sam:
    """A copy of the model whose tensors of more than SMALL elements hold values of fp16, in fp32.

    Raises CheckpointError for a weight beyond the range of fp16.
    """
    sam = copy.deepcopy(sam)
    for name, tensor in sam.state_dict().items():
        if tensor.numel() > SMALL:
            tensor.copy_(tensor.half())
            if not tensor.isfinite().all():
                raise CheckpointError(f"{name} has values beyond the range of fp16; export without --compact")
    return sam


def store_as_fp16(model: ir.Model) -> None:
    """Turn fp32 initializers of more than SMALL elements into fp16 ones with a Cast in front, in place.

    One that is no rounded weight (the decoder computes its position table from weights) stays fp32.
    """
    graph = model.graph
    casts = []
    for name, value in list(graph.initializers.items()):
        half = _exact_half(value.const_value)
        if half is None:
            continue
        del graph.initializers[name]
        value.const_value = None
        graph.register_initializer(stored := ir.val(f"{name}_fp16", const_value=ir.tensor(half)))
        to = ir.DataType.FLOAT.value
        casts.append(ir.node("Cast", [stored], {"to": to}, outputs=[value], name=f"{name}_cast"))
    graph.insert_before(graph.node(0), casts)


def _exact_half(tensor: ir.TensorProtocol | None) -> Array | None:
    """The same values as fp16, or None for what is small, no fp32 or not the same values then."""
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size <= SMALL:
        return None
    array = tensor.numpy()
    with np.errstate(over="ignore"):  # what overflows differs
        half = array.astype(np.float16)
    return half if (half == array).all() else None
