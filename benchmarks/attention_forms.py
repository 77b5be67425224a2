"""Ways to compute SAM's attention with decomposed relative positions, each as `export.modules.attention`.

`added` and `in product` are the two that an export writes; a stage has the one that suits its size and
precision. The others leave blocks of queries to torch's scaled_dot_product_attention, or to an engine.

A kernel that never writes the scores to memory (FlashAttention, arXiv 2205.14135) takes a product of queries
and keys, and perhaps an addend. `masked` hands it the positions as that addend, a matrix as large as the
scores. `augmented` makes them part of the product: q.k + rel_h[row of k] + rel_w[column of k] is
[q, rel_h, rel_w].[k, one-hot row, one-hot column].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from export.layers import product
from export.modules import attended, attention, position_table, positions_added, positions_in_product

Form = Callable[[Any, Tensor], Tensor]


def masked(layer: Any, x: Tensor) -> Tensor:
    """x [n, h, w, D] -> fp32 [n, h, w, D], positions as attn_mask [n, heads, h*w, h*w]."""
    _, h, w, _ = x.shape
    q, k, v = _parts(layer, x)
    rel_h, rel_w = _relative(layer, q, h, w)
    positions = (rel_h[..., :, None] + rel_w[..., None, :]).reshape(*q.shape[:3], h * w)
    return _joined(layer, F.scaled_dot_product_attention(q, k, v, positions, scale=layer.scale), x)


def augmented(layer: Any, x: Tensor) -> Tensor:
    """x [n, h, w, D] -> fp32 [n, h, w, D], queries and keys h + w channels wider."""
    q, k, v = _augmented(layer, x)
    return _joined(layer, F.scaled_dot_product_attention(q, k, v, scale=1.0), x)


def augmented_padded(layer: Any, x: Tensor) -> Tensor:
    """As `augmented`, values padded to the width of the keys, as some kernels want."""
    q, k, v = _augmented(layer, x)
    wide = F.pad(v, (0, k.shape[-1] - v.shape[-1]))
    return _joined(layer, F.scaled_dot_product_attention(q, k, wide, scale=1.0)[..., : v.shape[-1]], x)


FORMS: dict[str, Form] = {
    "as exported": attention,
    "added": partial(attended, form=positions_added),
    "in product": partial(attended, form=positions_in_product),
    "masked": masked,
    "augmented": augmented,
    "augmented, padded": augmented_padded,
}


def _parts(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, h, w, dim = x.shape
    heads = layer.num_heads
    parts = product(layer.qkv, x).reshape(n, h * w, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def _relative(layer: Any, q: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """[n, heads, h*w, h] and [n, heads, h*w, w]."""
    squares = q.reshape(*q.shape[:2], h, w, -1)
    rel_h = squares @ position_table(layer.rel_pos_h, h)
    rel_w = (squares.transpose(2, 3) @ position_table(layer.rel_pos_w, w)).transpose(2, 3)
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def _augmented(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, h, w, _ = x.shape
    q, k, v = _parts(layer, x)
    where = torch.arange(h * w, device=x.device)
    row, column = F.one_hot(where // w, h).to(k.dtype), F.one_hot(where % w, w).to(k.dtype)
    positions = torch.cat([row, column], dim=1).expand(*k.shape[:2], -1, -1)
    wider = torch.cat([q * layer.scale, *_relative(layer, q, h, w)], dim=-1)
    return wider, torch.cat([k, positions], dim=-1), v


def _joined(layer: Any, heads: Tensor, x: Tensor) -> Tensor:
    return product(layer.proj, heads.transpose(1, 2).reshape(x.shape)).float()
