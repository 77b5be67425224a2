"""A larger model that begins with what a smaller one has learned.

Source: Net2Net (arXiv 1511.05641): the new channels of a wider layer are read by nothing that was there
before, so the larger model starts out computing what the smaller one does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from export.sam import Weights, build_sam
from stages.errors import InputError
from stages.geometry import Geometry

_QUIET = 0.1  # of what a layer starts with, for new channels beside the old ones


def enlarged(weights: Weights, geometry: Geometry) -> Weights:
    """A SAM of `geometry` with the smaller one's weights in its first channels and heads.

    Position tables are interpolated. A LayerNorm over more channels is nearly the old one, since the new
    channels are quiet: its scale makes up for their number. The code of tiles stays; a projection does not
    fit any more. Raises InputError unless depth, global blocks, patches and the width of a head are the same,
    and nothing is smaller.
    """
    small = weights.geometry
    same = all(
        getattr(small, name) == getattr(geometry, name)
        for name in ("patch", "depth", "global_blocks", "prompt_dim")
    )
    if (
        not same
        or small.dim > geometry.dim
        or small.dim * geometry.heads != geometry.dim * small.heads
        or small.image_size > geometry.image_size
    ):
        raise InputError(
            f"{small.name} weights cannot start {geometry.name}: it needs those of {geometry.name}, or of a "
            "smaller model of as many blocks with heads of the same width"
        )
    sam = build_sam(geometry)
    old, state = weights.sam.state_dict(), sam.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            _fill(name, tensor, old[name], small.dim, small.dim / geometry.dim)
    trained_on = f"{weights.trained_on}, enlarged to {geometry.name}"
    return Weights(sam, geometry, "undistilled", trained_on, tiles=weights.tiles)


def _fill(name: str, new: Tensor, old: Tensor, dim: int, share: float) -> None:
    """Put a tensor of the smaller model into the larger one's, in place; see `enlarged`."""
    if name.endswith("pos_embed"):
        side = new.shape[1]
        spread = F.interpolate(old.permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False)
        new.zero_()
        new[..., :dim] = spread.permute(0, 2, 3, 1)
    elif "rel_pos" in name:
        new.copy_(F.interpolate(old.T[None], len(new), mode="linear", align_corners=True)[0].T)
    elif old.shape == new.shape:
        new.copy_(old)
    elif ".norm" in name:
        new.fill_(old.mean() if name.endswith("weight") else 0.0)
        new[:dim] = old
        if name.endswith("weight"):
            new.mul_(share**0.5)
    elif ".attn.qkv." in name:  # queries, keys and values each have new heads behind the old ones
        _widen(new.view(3, -1, *new.shape[1:]), old.view(3, -1, *old.shape[1:]), 1)
    else:  # a bias, or a matrix or convolution [out, in, ...]
        _widen(new, old, 0)


def _widen(new: Tensor, old: Tensor, out: int) -> None:
    """`old` into the first outputs (of dimension `out`) and inputs (of the next) of `new`, in place."""
    rows = old.shape[out]
    new.narrow(out, rows, new.shape[out] - rows).mul_(_QUIET)
    kept = new.narrow(out, 0, rows)
    if old.ndim > out + 1:
        kept.zero_()
        kept = kept.narrow(out + 1, 0, old.shape[out + 1])
    kept.copy_(old)
