"""Muon with all matrices of one shape orthogonalised at once: a tenth of torch.optim.Muon's kernels.

Source: Keller Jordan's Muon (kellerjordan.github.io/posts/muon); rates as AdamW's by "Muon is Scalable for
LLM Training" (arXiv 2502.16982). Coefficients are those of torch.optim.Muon, with its
adjust_lr_fn="match_rms_adamw", and on a GPU its rounding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices alone. As torch's fused optimisers it leaves out a step where its `found_inf` is 1."""

    found_inf: Tensor | None = None

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; a closure is not called."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for matrices in alike.values():
                self._update(matrices, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, matrices: list[Tensor], rate: float, decay: float, momentum: float) -> None:
        gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
        left: float | Tensor = 1.0  # of this step
        if self.found_inf is not None:
            gradients = torch.where(self.found_inf > 0, torch.zeros_like(gradients), gradients)
            left = 1 - self.found_inf
        buffers = [self._buffer(matrix) for matrix in matrices]
        torch._foreach_lerp_(buffers, list(gradients.unbind()), 1 - momentum)
        update = orthogonalised(gradients.lerp(torch.stack(buffers), momentum))
        rms = 0.2 * math.sqrt(max(matrices[0].shape))
        torch._foreach_mul_(matrices, 1 - rate * decay * left)
        torch._foreach_sub_(matrices, list((update.float() * (rate * rms * left)).unbind()))

    def _buffer(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices [n, rows, cols] with all singular values near one, by Newton and Schulz's iteration.

    In bf16 on a GPU, in fp32 on a CPU: a processor that does not compute in bf16 takes many times as long.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
