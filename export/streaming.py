"""The global stage in parts that need only what has arrived: `project`, `attend` and `finish`.

A group is one row of windows. The canvas has E tokens a row, so a group is a run of w*E of its tokens. The
last group reaches beyond the canvas: what it holds there is no key of anybody, and `finish` cuts it off.

    project   norm and QKV of a group, once all its windows have come
    attend    the queries of a group against the keys of a group: once for each pair, in any order
    finish    the rest of the first global block, the other global blocks, the neck

`attend` carries the running softmax of a group of queries, in fp32: per query the largest score so far, the
sum of exp(score - largest), and the mean of the values weighted so. It is a mean and no sum, so that a
product in fp16 stays within the range of the values.

What it costs: a pair is read and written as 2 * w*E * D more numbers than in one softmax, and the last group
is computed as if it were whole (vit_*: 70 rows of tokens for 64).

Source: segment_anything.modeling.image_encoder (Block, Attention); the running softmax is that of Milakov and
Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.layers import mlp, product, run_layers, scaled
from export.modules import attention
from export.projection import Projection, restore
from export.sam import Sam
from stages.geometry import Geometry


class ProjectStage(nn.Module):
    """A row of windows' embeddings [grid, w, w, r], and its first token row, int32 [1] -> hidden fp32
    [1, w, E, D], and of its tokens, by heads, query [heads, w*E, d], key [heads, d, w*E] (scaled) and value
    [heads, w*E, d].

    Tokens beyond the canvas are zeroed by select first: what a site answers there may overflow.
    """

    def __init__(self, sam: Sam, geometry: Geometry, projection: Projection | None = None) -> None:
        super().__init__()
        self.geometry = geometry
        self.restore = restore(projection)
        block: Any = sam.image_encoder.blocks[geometry.global_blocks[0]]
        self.norm, self.qkv = block.norm1, block.attn.qkv
        self.heads, self.scale = block.attn.num_heads, block.attn.scale

    def forward(self, embedding: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        g = self.geometry
        x = self.restore(embedding.float())
        # [grid, w, w, D] -> [w, grid, w, D] -> [1, w, E, D]
        x = x.transpose(0, 1).reshape(1, g.window, g.grid * g.window, g.dim)[:, :, : g.tokens]
        on_canvas = row.long() + torch.arange(g.window) < g.tokens
        x = torch.where(on_canvas[:, None, None], x, torch.zeros_like(x))
        # [1, w, E, 3*D] -> [w*E, 3, heads, d] -> [3, heads, w*E, d]
        qkv = product(self.qkv, self.norm(x)).reshape(g.window * g.tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(1, 2, 0, 3).unbind(0)
        return x, q, scaled(k, self.scale).transpose(-2, -1), v


class AttendStage(nn.Module):
    """One group of queries against one group of keys.

    query, key, value as ProjectStage gives them; rows int32 [2]: the first token row of the group of queries
    and of that of keys; largest, total fp32 [heads, w*E, 1] and attended fp32 [heads, w*E, d]: the running
    softmax of these queries, -inf, 0 and 0 before any -> the same with these keys.
    """

    def __init__(self, sam: Sam, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        attn: Any = sam.image_encoder.blocks[geometry.global_blocks[0]].attn
        self.rel_pos_h, self.rel_pos_w = attn.rel_pos_h, attn.rel_pos_w

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor,
        largest: Tensor,
        total: Tensor,
        attended: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # No cast as exported: a check of a lower precision runs the module widened to fp32.
        query, key, value = (each.to(self.rel_pos_h.dtype) for each in (query, key, value))
        scores = (query @ key).float() + self._positions(query, rows.long())
        here = scores.amax(dim=-1, keepdim=True)
        weights = scores.softmax(dim=-1)
        # The largest weight is exp(0) / sum, which spares a pass over the scores for their sum.
        count = 1 / weights.amax(dim=-1, keepdim=True)
        found = (weights.to(value.dtype) @ value).float()
        new = torch.maximum(largest, here)
        before, now = total * torch.exp(largest - new), count * torch.exp(here - new)
        both = before + now
        return new, both, attended * (before / both) + found * (now / both)

    def _positions(self, query: Tensor, rows: Tensor) -> Tensor:
        """What relative positions add to the scores, -inf for keys beyond the canvas.

        query [heads, w*E, d], rows int64 [2] -> fp32 [heads, w*E, w*E].
        """
        g, heads = self.geometry, len(query)
        steps, columns = torch.arange(g.window), torch.arange(g.tokens)
        queries, keys = rows[0] + steps, rows[1] + steps
        # Rows beyond the canvas have no entry in the table, and get zeros. (To clip their distances would do
        # too, but TensorRT 10 clips no integers.)
        beyond = g.grid * g.window - g.tokens
        table = functional.pad(self.rel_pos_h, (0, 0, beyond, beyond))
        down = queries[:, None] - keys[None, :] + g.tokens - 1 + beyond
        across = columns[:, None] - columns[None, :] + g.tokens - 1
        # [2E - 1 + 2*beyond, d] -> [w queries, w keys, d]
        table_h = table.index_select(0, down.flatten()).reshape(g.window, g.window, -1)
        q = query.reshape(heads, g.window, g.tokens, -1)
        rel_h = (q @ table_h.transpose(-2, -1)).float()
        rel_h = torch.where(keys < g.tokens, rel_h, -torch.inf)
        rel_w = (q.transpose(1, 2) @ self.rel_pos_w[across].transpose(-2, -1)).transpose(1, 2).float()
        # [heads, w, E, w, 1] + [heads, w, E, 1, E] -> [heads, w*E, w*E]
        both: Tensor = rel_h[..., None] + rel_w[..., None, :]
        return both.reshape(heads, g.window * g.tokens, -1)


class FinishStage(nn.Module):
    """The rest: hidden of every group, then attended of every group -> image_embedding [1, 256, E, E]."""

    def __init__(self, sam: Sam, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        first, *others = (sam.image_encoder.blocks[i] for i in geometry.global_blocks)
        self.proj, self.norm, self.mlp = first.attn.proj, first.norm2, first.mlp
        self.blocks = nn.ModuleList(others)
        self.neck = sam.image_encoder.neck

    def forward(self, *groups: Tensor) -> Tensor:
        g = self.geometry
        x = torch.cat(groups[: g.grid], dim=1)[:, : g.tokens]
        # [heads, grid*w*E, d] -> [heads, E*E, d] -> [1, E, E, D]
        attended = torch.cat(groups[g.grid :], dim=1)[:, : g.tokens**2]
        x = x + product(self.proj, attended.transpose(0, 1).reshape(1, g.tokens, g.tokens, g.dim)).float()
        x = x + mlp(self.mlp, self.norm(x))
        block: Any
        for block in self.blocks:
            x = x + attention(block.attn, block.norm1(x))
            x = x + mlp(block.mlp, block.norm2(x))
        return run_layers(self.neck, x.permute(0, 3, 1, 2))
