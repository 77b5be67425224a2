"""Checkpoints for tests, small on disk: each tensor holds one number, repeated by its strides."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor

from export.sam import build_sam
from stages.geometry import GEOMETRIES


@functools.cache
def _shapes(model: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_sam(GEOMETRIES[model]).state_dict().items()}


def sam_state(model: str = "mini", first: float = 0.5, prefix: str = "") -> dict[str, Tensor]:
    """SAM's tensors under their names; each holds another number, from `first` upwards."""
    return {
        prefix + name: torch.tensor(first + number / 1024).expand(shape)
        for number, (name, shape) in enumerate(_shapes(model).items())
    }


def random_tensors(layout: Path, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by a list of names and shapes, a tensor a line; activations stay near one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for line in layout.read_text("utf-8").splitlines():
        name, shape = line.split("\t")
        noise = torch.randn([int(side) for side in shape.split()], generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif noise.ndim > 1:
            state[name] = noise / math.sqrt(noise[0].numel())
        elif name.endswith(("weight", "running_var")):
            state[name] = (1 + 0.1 * noise).abs()
        else:
            state[name] = 0.1 * noise
    return state
