"""PyTorch modules run the way a GPU rounds: every tensor of a lower precision is rounded to it.

A CPU's own fp16 kernels keep what lies between two operators in fp32, and onnxruntime does so for a whole
graph; neither shows an overflow. Here each operator on fp16 (or bf16) tensors computes in fp32, as tensor
cores accumulate, and its result is rounded: what fp16 cannot hold becomes infinite, and stays so. TensorRT
fuses operators and so rounds less often, never more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

LOW = (torch.float16, torch.bfloat16)


@dataclass
class Peak:
    """The largest value that tensors of a lower precision reached in a stage.

    `value` is absolute and infinite after an overflow, `dtype` is of the tensor that held it, `where` names
    the operator and the layer.
    """

    value: float = 0.0
    dtype: torch.dtype = torch.float16
    where: str = "nowhere"

    @property
    def overflowed(self) -> bool:
        return not math.isfinite(self.value)

    def update(self, tensor: Tensor, where: str) -> None:
        value = float(tensor.abs().amax()) if tensor.numel() else 0.0
        if not self.overflowed and not value <= self.value:  # the first overflow stays; NaN is one too
            self.value, self.dtype, self.where = value, tensor.dtype, where


def run_rounded(module: nn.Module, inputs: Sequence[Tensor], peak: Peak | None = None) -> Any:
    """What `module` makes of `inputs` when every tensor of a lower precision is rounded. Updates `peak`."""
    with Rounded({id(part): name for name, part in module.named_modules()}, peak or Peak()):
        return module(*inputs)


class Rounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators on fp16 and bf16 tensors compute in fp32 and round their results."""

    def __init__(self, names: Mapping[int, str], peak: Peak) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names
        self._peak = peak
        self._layer = ""

    def __enter__(self) -> Rounded:
        self._hook = register_module_forward_pre_hook(self._enter_layer)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        self._hook.remove()

    def _enter_layer(self, layer: nn.Module, inputs: Any) -> None:
        self._layer = self._names.get(id(layer), "")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            return func(*args, **kwargs)
        low = None if "dtype" in kwargs else _low_dtype((args, kwargs))
        if low is None:
            result = func(*args, **kwargs)
        else:
            wide = func(*tree_map(_widened, args), **tree_map(_widened, kwargs))
            result = tree_map(partial(_rounded, low=low), wide)
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and tensor.dtype in LOW:
                operator = func.name().removeprefix("aten::")
                self._peak.update(tensor, f"{operator} of {self._layer or 'the input'}")
        return result


def _low_dtype(arguments: Any) -> torch.dtype | None:
    """The one lower precision of all floating tensors among the arguments, or None."""
    tensors = [value for value in tree_flatten(arguments)[0] if isinstance(value, Tensor)]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 and found <= set(LOW) else None


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value


def _rounded(value: Any, low: torch.dtype) -> Any:
    return value.to(low) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
