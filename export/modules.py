"""The stages as PyTorch modules, written so that they export to plain ONNX operators.

They hold the layers of a segment_anything model (no copies) and compute what its own forward computes:

- `WindowStage`: patch embedding, position embedding and all window blocks of single windows;
- `HeadStage` and `RestStage`: the same in two, some of the window blocks at the edge and the rest at sites;
- `GlobalStage`: the global blocks and the neck, on all windows' embeddings;
- `WholeStage`: the reordered encoder on all tiles of a canvas, the way SAM runs it.

With a `Projection` the window stage ends with it, in fp32, and the global stage begins by undoing it; the
whole stage does both in between. With a `Head` it also does what travelling after the head's blocks does.

They compute in fp32. In a stage that `lowered` made, matrix products compute in the dtype of their weights;
norms, softmax, sums of scores and positions, and the residual stream stay in fp32; where positions are part
of the product, they are summed with the scores as products are.

Attention is matmul, softmax, matmul; global attention runs in blocks of query rows so that no more than
SCORES_BYTES of an attention matrix (vit_b: 805 MB, vit_h: 1074 MB) exist at a time. In 16 bits that attention
has its positions in the product, as engines for GPUs fuse it; docs/engines.md compares the forms.

Source: segment_anything.modeling.image_encoder (Block, Attention).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.head import Head, Pack, Unpack, travel
from export.layers import mlp, product, run_layers, scaled
from export.projection import Projection, project, restore
from export.quantise import quantise
from export.sam import ImageEncoderViT, Sam, window_partition, window_unpartition
from export.tiles import TilePixels, stitched
from stages.geometry import Geometry
from stages.tile_code import RGB, TileCode

SCORES_BYTES = 48 * 2**20  # attention scores that exist at a time, in fp32 for one image
FUSED_SCORES_BYTES = 256 * 2**20  # the same where engines that fuse attention write none: fewer blocks

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], list[Tensor]]  # see `positions_added`


def attention(layer: Any, x: Tensor) -> Tensor:
    """SAM's attention with decomposed relative positions, in the form that suits its size and precision.

    x [n, h, w, D] -> fp32 [n, h, w, D]; `layer` is a segment_anything Attention whose tables fit h and w.
    """
    _, h, w, _ = x.shape
    large = _rows(layer.num_heads, h, w, SCORES_BYTES) < h
    in_product = large and layer.qkv.weight.dtype != torch.float32
    return attended(layer, x, positions_in_product if in_product else positions_added)


def attended(layer: Any, x: Tensor, form: Form) -> Tensor:
    """As `attention`, in a form that is given."""
    n, h, w, dim = x.shape
    heads, d = layer.num_heads, dim // layer.num_heads
    # [n, h*w, 3*D] -> [3, n, heads, h*w, d]
    q, k, v = product(layer.qkv, x).reshape(n, h * w, 3, heads, d).permute(2, 0, 3, 1, 4).unbind(0)
    keys = scaled(k, layer.scale).transpose(-2, -1)
    tables = position_table(layer.rel_pos_h, h), position_table(layer.rel_pos_w, w)
    blocks = form(q, keys, v, *tables)
    # [n, heads, h*w, d] -> [n, h, w, D]
    return product(layer.proj, torch.cat(blocks, dim=2).transpose(1, 2).reshape(n, h, w, dim)).float()


def positions_added(q: Tensor, keys: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> list[Tensor]:
    """What each block of query rows attends to, [n, heads, rows*w, d], positions added to the scores.

    q, v [n, heads, h*w, d]; keys [n, heads, d, h*w], scaled; table_h [h, d, h], table_w [w, d, w].
    """
    h, w = len(table_h), len(table_w)
    rows = _rows(q.shape[1], h, w, SCORES_BYTES)
    blocks = []
    for start in range(0, h, rows):
        block = q[:, :, start * w : (start + rows) * w]
        scores = (block @ keys).float()
        # From the block's own queries: were they cut from those of all queries, TensorRT's builder would add
        # them up for all blocks at once (805 MB in vit_b's fp16 stage).
        rel_h, rel_w = _positions(block, table_h[start : start + rows], table_w)
        # [n, heads, rows, w, h, 1] + [n, heads, rows, w, 1, w]
        positions = rel_h.float()[..., None] + rel_w.float()[..., None, :]
        blocks.append((scores + positions.reshape(scores.shape)).softmax(dim=-1).to(v.dtype) @ v)
    return blocks


def positions_in_product(
    q: Tensor, keys: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor
) -> list[Tensor]:
    """As `positions_added`: q.k + rel_h[row of k] + rel_w[column of k] is the product of [q, rel_h, rel_w]
    with [k, one-hot row, one-hot column].

    TensorRT makes one kernel of it that writes no scores, if values are as wide as keys: they are padded.
    """
    h, w, d = len(table_h), len(table_w), v.shape[-1]
    rows = _rows(q.shape[1], h, w, FUSED_SCORES_BYTES)
    keys = torch.cat([keys, _places(h, w).to(keys.dtype).expand(*keys.shape[:2], -1, -1)], dim=2)
    v = functional.pad(v, (0, h + w))
    blocks = []
    for start in range(0, h, rows):
        block = q[:, :, start * w : (start + rows) * w]
        rel_h, rel_w = _positions(block, table_h[start : start + rows], table_w)
        wide = torch.cat([block, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], dim=-1)
        blocks.append(((wide @ keys).float().softmax(dim=-1).to(v.dtype) @ v)[..., :d])
    return blocks


def _rows(heads: int, h: int, w: int, scores_bytes: int) -> int:
    """Rows of queries in a block, as many in each, whose fp32 scores are so large at most; `h` or more for
    one block."""
    most = max(1, scores_bytes // (heads * w * h * w * 4))
    return most if most >= h else math.ceil(h / math.ceil(h / most))


def _places(h: int, w: int) -> Tensor:
    """Row and column of each key, one-hot: bool [h + w, h*w]."""
    key = torch.arange(h * w)
    row, column = torch.arange(h)[:, None] == key // w, torch.arange(w)[:, None] == key % w
    return torch.cat([row, column])


def position_table(rows: Tensor, size: int) -> Tensor:
    """SAM's relative position rows [2*size - 1, d] along one axis as a matrix a query: [query, d, key]."""
    positions = torch.arange(size)
    return rows[positions[:, None] - positions[None, :] + size - 1].transpose(-2, -1)


def _positions(q: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """What relative positions add to the scores of some rows of queries, along rows and along columns.

    q [n, heads, rows*w, d]; table_h [rows, d, h] is of those rows, table_w [w, d, w] -> in the dtype of q
    [n, heads, rows, w, h] and [n, heads, rows, w, w].
    """
    n, heads, _, d = q.shape
    q = q.reshape(n, heads, table_h.shape[0], table_w.shape[0], d)
    rel_h = q @ table_h
    rel_w = (q.transpose(2, 3) @ table_w).transpose(2, 3)
    return rel_h, rel_w


def patches(embed: Any, pixels: Tensor) -> Tensor:
    """segment_anything's PatchEmbed: normalised pixels [n, 3, S, S] -> fp32 [n, S/patch, S/patch, D]."""
    return product(embed.proj, pixels).float().permute(0, 2, 3, 1)


class WindowStage(nn.Module):
    """Everything of the encoder that depends on one window's pixels alone.

    tile uint8 [n, K] in the code `tiles`, index int32 [n, 1], extent int32 [n, 4] -> embedding [n, w, w, r],
    embedding_q8 int8 [n, w, w, r] and its scale fp16 [n, w, w, 1]; r is D without a projection. Tokens
    outside the canvas are zero.
    """

    positions: Tensor
    canvas_tokens: Tensor

    def __init__(
        self,
        sam: Sam,
        geometry: Geometry,
        embedding_dtype: torch.dtype,
        tiles: TileCode = RGB,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        encoder = sam.image_encoder
        self.geometry = geometry
        self.embedding_dtype = embedding_dtype
        self.pixels = TilePixels(sam, geometry, tiles)
        self.patch_embed = encoder.patch_embed
        self.blocks = nn.ModuleList(encoder.blocks[i] for i in geometry.window_blocks)
        self.project = project(projection)
        # [1, T, T, D] -> [windows, w, w, D]
        self.register_buffer("positions", window_partition(encoder.pos_embed.data, geometry.window)[0])
        self.register_buffer("canvas_tokens", canvas_tokens(geometry))

    def forward(self, tile: Tensor, index: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encode(tile, index, extent)
        return x.to(self.embedding_dtype), *quantise(x)

    def encode(self, tile: Tensor, index: Tensor, extent: Tensor) -> Tensor:
        """The embedding in fp32, [n, w, w, r]."""
        index = index.long()
        on_canvas = self._on_canvas(index)
        x = patches(self.patch_embed, self.pixels(tile, extent))
        x = x + self.positions[index[:, 0]]
        for block in self.blocks:
            x = _window_block(block, x, on_canvas)
        x = self.project(x)
        return torch.where(on_canvas, x, torch.zeros_like(x))

    def _on_canvas(self, index: Tensor) -> Tensor:
        """Which tokens of each window lie on the canvas: bool [n, w, w, 1]."""
        return self.canvas_tokens[index[:, 0]]


def _window_block(block: Any, x: Tensor, on_canvas: Tensor) -> Tensor:
    """segment_anything's Block.forward on windows already cut, [n, w, w, D].

    SAM pads windows with zeros after norm1: attention sees those tokens as k = bias, v = bias.
    """
    h = block.norm1(x)
    h = torch.where(on_canvas, h, torch.zeros_like(h))
    x = x + attention(block.attn, h)
    return x + mlp(block.mlp, block.norm2(x))


class HeadStage(nn.Module):
    """The part of WindowStage that runs at the edge: patch embedding, positions and the head's window blocks.

    tile uint8 [n, 3 S^2], index int32 [n, 1], extent int32 [n, 4] -> what travels of hidden [n, w, w, D]; see
    stages.hidden. Tokens outside the canvas are zero.
    """

    positions: Tensor
    canvas_tokens: Tensor

    def __init__(self, sam: Sam, geometry: Geometry, head: Head) -> None:
        super().__init__()
        encoder = sam.image_encoder
        self.pixels = TilePixels(sam, geometry)
        self.patch_embed = encoder.patch_embed
        self.blocks = nn.ModuleList(encoder.blocks[i] for i in geometry.window_blocks[: head.blocks])
        self.pack = Pack(head)
        self.register_buffer("positions", window_partition(encoder.pos_embed.data, geometry.window)[0])
        self.register_buffer("canvas_tokens", canvas_tokens(geometry))

    def forward(self, tile: Tensor, index: Tensor, extent: Tensor) -> tuple[Tensor, ...]:
        packed: tuple[Tensor, ...] = self.pack(self.encode(tile, index, extent))
        return packed

    def encode(self, tile: Tensor, index: Tensor, extent: Tensor) -> Tensor:
        """The hidden state in fp32, [n, w, w, D]."""
        windows = index.long()[:, 0]
        on_canvas = self.canvas_tokens[windows]
        x = patches(self.patch_embed, self.pixels(tile, extent)) + self.positions[windows]
        for block in self.blocks:
            x = _window_block(block, x, on_canvas)
        return torch.where(on_canvas, x, torch.zeros_like(x))


class RestStage(nn.Module):
    """The part of WindowStage that runs at sites: the window blocks after those of the head.

    What travels of hidden [n, w, w, D], and index int32 [n, 1] between its parts -> as WindowStage.
    """

    canvas_tokens: Tensor

    def __init__(
        self,
        sam: Sam,
        geometry: Geometry,
        embedding_dtype: torch.dtype,
        head: Head,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        encoder = sam.image_encoder
        self.embedding_dtype = embedding_dtype
        self.unpack = Unpack(head)
        self.blocks = nn.ModuleList(encoder.blocks[i] for i in geometry.window_blocks[head.blocks :])
        self.project = project(projection)
        self.register_buffer("canvas_tokens", canvas_tokens(geometry))

    def forward(
        self, hidden: Tensor, index: Tensor, hidden_scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encode(hidden, index, hidden_scale)
        return x.to(self.embedding_dtype), *quantise(x)

    def encode(self, hidden: Tensor, index: Tensor, hidden_scale: Tensor | None = None) -> Tensor:
        """The embedding in fp32, [n, w, w, r]."""
        on_canvas = self.canvas_tokens[index.long()[:, 0]]
        x = self.unpack(hidden, hidden_scale)
        for block in self.blocks:
            x = _window_block(block, x, on_canvas)
        x = self.project(x)
        return torch.where(on_canvas, x, torch.zeros_like(x))


def canvas_tokens(geometry: Geometry) -> Tensor:
    """Which tokens of every window lie on the canvas: bool [windows, w, w, 1]."""
    canvas = torch.ones((1, geometry.tokens, geometry.tokens, 1))
    tokens: Tensor = window_partition(canvas, geometry.window)[0] > 0
    return tokens


class GlobalStage(nn.Module):
    """Global blocks and neck: embedding [windows, w, w, r] -> image_embedding fp32 [1, 256, E, E]."""

    def __init__(self, sam: Sam, geometry: Geometry, projection: Projection | None = None) -> None:
        super().__init__()
        self.geometry = geometry
        self.restore = restore(projection)
        self.blocks = nn.ModuleList(sam.image_encoder.blocks[i] for i in geometry.global_blocks)
        self.neck = sam.image_encoder.neck

    def forward(self, embedding: Tensor) -> Tensor:
        g = self.geometry
        padded = (g.grid * g.window, g.grid * g.window)
        x = self.restore(embedding.float())
        x = window_unpartition(x, g.window, padded, (g.tokens, g.tokens))
        for block in self.blocks:
            x = _block(block, x)
        return run_layers(self.neck, x.permute(0, 3, 1, 2))


class WholeStage(nn.Module):
    """The encoder run the way SAM runs it, windows cut from the whole feature map; reordered by default.

    tile uint8 [windows, K], extent int32 [windows, 4] -> image_embedding fp32 [1, 256, E, E].
    """

    def __init__(
        self,
        sam: Sam,
        geometry: Geometry,
        order: Sequence[int] | None = None,
        tiles: TileCode = RGB,
        projection: Projection | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        encoder = sam.image_encoder
        self.geometry = geometry
        self.pixels = TilePixels(sam, geometry, tiles)
        self.patch_embed, self.pos_embed, self.neck = encoder.patch_embed, encoder.pos_embed, encoder.neck
        self.blocks = nn.ModuleList(encoder.blocks[i] for i in order or geometry.block_order)
        self.at_edge = head.blocks if head else 0  # blocks before what travels up
        self.at_sites = len(geometry.window_blocks)  # and before what travels back
        self.up = travel(head)
        self.wire = nn.Sequential(project(projection), restore(projection))

    def forward(self, tile: Tensor, extent: Tensor) -> Tensor:
        canvas = stitched(self.pixels(tile, extent), self.geometry)
        x = patches(self.patch_embed, canvas) + self.pos_embed
        for block in self.blocks[: self.at_edge]:
            x = _block(block, x)
        x = self.up(x)
        for block in self.blocks[self.at_edge : self.at_sites]:
            x = _block(block, x)
        x = self.wire(x)
        for block in self.blocks[self.at_sites :]:
            x = _block(block, x)
        return run_layers(self.neck, x.permute(0, 3, 1, 2))


def _block(block: Any, x: Tensor) -> Tensor:
    """segment_anything's Block.forward with `attention` in place of its attention."""
    h = block.norm1(x)
    if block.window_size > 0:
        hw = (x.shape[1], x.shape[2])
        h, padded = window_partition(h, block.window_size)
        h = window_unpartition(attention(block.attn, h), block.window_size, padded, hw)
    else:
        h = attention(block.attn, h)
    x = x + h
    return x + mlp(block.mlp, block.norm2(x))


def reordered_encoder(
    encoder: ImageEncoderViT,
    geometry: Geometry,
    projection: Projection | None = None,
    head: Head | None = None,
) -> ImageEncoderViT:
    """Put SAM's own encoder into the reordered block order, in place: the reference of every parity check.

    A projection and its undoing become a block more, between window blocks and global ones; so does what
    travels after the blocks of a head.
    """
    blocks = [encoder.blocks[i] for i in geometry.block_order]
    if projection:
        blocks.insert(len(geometry.window_blocks), nn.Sequential(project(projection), restore(projection)))
    if head:
        blocks.insert(head.blocks, travel(head))
    encoder.blocks = nn.ModuleList(blocks)
    return encoder
