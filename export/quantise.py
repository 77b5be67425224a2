"""Tokens as int8 values and one scale each, and back: what travels in int8, both ways."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_FLOOR = 2.0**-14  # smallest normal fp16: a token of zeros must not divide by zero


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and one fp16 scale a token: x is close to values * scale."""
    scale = _scale(x)
    return _to_int8(x / scale.float()), scale


def dequantise(values: Tensor, scale: Tensor) -> Tensor:
    """fp32 tokens of int8 values and fp16 scales."""
    return _from_int8(values) * scale.float()


def rounded(x: Tensor) -> Tensor:
    """What `dequantise` gives of what `quantise` gives, fp32 throughout: for graphs that send nothing."""
    scale = _scale(x).float()
    return (x / scale).round().clamp(-128, 127) * scale


def _scale(x: Tensor) -> Tensor:
    return (x.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=SCALE_FLOOR).half()


def _to_int8(x: Tensor) -> Tensor:
    """Round half to even and saturate: ONNX QuantizeLinear with scale 1, which TensorRT takes where a Cast to
    int8 is refused."""
    if not torch.onnx.is_in_onnx_export():
        return x.round().clamp(-128, 127).to(torch.int8)
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int8)
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", (x, one, zero), dtype=torch.int8, shape=x.shape, version=1
    )


def _from_int8(values: Tensor) -> Tensor:
    """int8 as fp32: ONNX DequantizeLinear with scale 1, the way back of `_to_int8`."""
    if not torch.onnx.is_in_onnx_export():
        return values.float()
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int8)
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (values, one, zero), dtype=torch.float32, shape=values.shape, version=1
    )
