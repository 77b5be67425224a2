"""How far two right computations of one thing may lie apart: where all tolerances of an export come from.

They are fractions of the largest value of what is compared, and are made of

- `STEP[dtype]`, one step of the type that an output travels in: a value between two steps may fall to either;
- `SAFETY` times what rounding changes: for a stage as it was measured (`rounding_noise`), for the image
  embedding, behind which lies every stage, one rounding of the lowest precision on the way;
- and at least `FLOOR`, since a measured noise near zero would ask for more than fp32 gives.

    stage      STEP[dtype] + max(FLOOR, SAFETY * noise)
    embedding  max(FLOOR, SAFETY * UNIT[lowest precision on the way])

A wrong graph (an operator, an axis, a weight) is off by far more: by a hundredth to all of the largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}  # unit roundoff: half a step at one
STEP = {"float32": 0.0, "float16": 2.0**-10, "int8": 1 / 127}
FLOOR = 1e-4
SAFETY = 32  # sums in another order, and operators another library approximates, round more than once


def stage_tolerance(dtype: str, noise: float) -> float:
    """For an output of this dtype, whose fp32 computation `noise` was measured for."""
    return STEP[dtype] + max(FLOOR, SAFETY * noise)


def embedding_tolerance(precisions: Iterable[str]) -> float:
    """For an image embedding behind stages and a wire of these precisions, against that of fp32."""
    return max(FLOOR, SAFETY * max(UNIT[precision] for precision in precisions))


@torch.no_grad()
def rounding_noise(module: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[float]:
    """How much rounding to fp32 changes each output of `module`, as a fraction of its largest value.

    Measured: `inputs` run again, the result of every layer moved by one rounding of its root mean square, at
    random. `outputs` are those of an undisturbed run.
    """
    generator = torch.Generator().manual_seed(0)

    def disturb(layer: nn.Module, given: Any, result: Any) -> Any:
        if not isinstance(result, Tensor) or result.dtype != torch.float32:
            return None
        size = UNIT["fp32"] * result.square().mean().sqrt()
        return result + size * torch.randn(result.shape, generator=generator)

    layers = [layer for layer in module.modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(disturb) for layer in layers]
    try:
        disturbed = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    disturbed = disturbed if isinstance(disturbed, tuple) else (disturbed,)
    return [_relative(moved, still) for moved, still in zip(disturbed, outputs, strict=True)]


def _relative(moved: Tensor, still: Tensor) -> float:
    return float((moved.float() - still.float()).abs().max() / still.float().abs().max().clamp(min=1e-12))
