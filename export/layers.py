"""Running SAM's layers in mixed precision: matrix products in the dtype of their weights, all else in fp32.

A layer's product is a Linear or a convolution. Its input is cast to the dtype its weights are stored in, and
whoever adds, normalises or activates the result casts it back. With fp32 weights no cast exists, so the same
functions define the fp32 stages. `lowered` decides the dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import CheckpointError

PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
TABLES = ("rel_pos_h", "rel_pos_w")  # parameters that queries are multiplied with


def product(layer: Any, x: Tensor) -> Tensor:
    """A Linear or convolution of x, computed and returned in the dtype of the layer's weights."""
    result: Tensor = layer(x.to(layer.weight.dtype))
    return result


def scaled(x: Tensor, factor: float) -> Tensor:
    """x * factor in the dtype of x, rounded once.

    A graph holds a factor in the dtype of what it multiplies. One that a lower precision would round, which
    is any but a power of two, therefore multiplies in fp32.
    """
    if math.frexp(factor)[0] == 0.5:
        return x * factor
    return (x.float() * factor).to(x.dtype)


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Layers one after another on x, fp32 out: products as `product`, norms and activations in fp32."""
    for layer in layers:
        x = product(layer, x) if isinstance(layer, PRODUCTS) else layer(x.float())
    return x.float()


def mlp(block: Any, x: Tensor) -> Tensor:
    """segment_anything's MLPBlock, fp32 out.

    The activation is computed in fp32: engines write GELU as 1 + erf(x), which costs a lower precision half
    its digits, and run it in one kernel with its casts.
    """
    return run_layers((block.lin1, block.act, block.lin2), x)


@torch.no_grad()
def lowered(stage: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a stage whose products compute in `dtype`; the stage itself where that is fp32.

    Raises CheckpointError for a weight beyond the range of `dtype`.
    """
    if dtype == torch.float32:
        return stage
    stage = copy.deepcopy(stage)
    for name, module in stage.named_modules():
        if dtype == torch.bfloat16 and isinstance(module, nn.ConvTranspose2d):
            continue  # TensorRT's compiler has no transposed convolution in bf16
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(module, PRODUCTS) or key in TABLES:
                parameter.data = _rounded(parameter.data, dtype, f"{name}.{key}")
    return stage


def _rounded(weights: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    low = weights.to(dtype)
    if not low.isfinite().all():
        raise CheckpointError(
            f"{name} has values beyond the range of {str(dtype).removeprefix('torch.')}; export this stage "
            "in bf16 or fp32 (--precision)"
        )
    return low
