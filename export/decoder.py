"""The decoder stage as a PyTorch module: prompt encoder and mask decoder, written out in plain operators.

Like the stages of `export.modules` it holds segment_anything's layers and computes what its forward computes;
precision is the layers' (see `export.layers`). Prompts are embedded in fp32: the sine of a large angle is
lost in anything less.

Source: segment_anything.modeling (prompt_encoder.PromptEncoder, mask_decoder.MaskDecoder, transformer).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from export.layers import mlp, product, run_layers, scaled
from export.sam import Sam


class DecoderStage(nn.Module):
    """Prompt encoder and mask decoder for p objects of k prompt tokens each.

    point_coords fp32 [p, k, 2] are canvas pixels (x, y); point_labels fp32 [p, k] are SAM's: 0 background,
    1 foreground, 2 and 3 the corners of a box, -1 none. mask_input fp32 [p, 1, M, M] counts where
    has_mask_input fp32 [p, 1] is 1. Outputs: low_res_masks fp32 [p, 4, M, M] (logits), iou fp32 [p, 4].
    """

    image_pe: Tensor

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        prompts = sam.prompt_encoder
        self.image_size = sam.image_encoder.img_size
        self.prompts = prompts
        self.decoder = sam.mask_decoder
        self.register_buffer("image_pe", prompts.get_dense_pe().detach())

    def forward(
        self,
        image_embedding: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(point_coords, point_labels)
        dense = torch.where(has_mask_input[..., None, None] > 0, self.dense(mask_input), self.dense(None))
        return self.decode(image_embedding + dense, self.image_pe, tokens)  # [1, 256, E, E] + [p, 256, E, E]

    def tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Output tokens and embedded prompts, [p, 5 + k, 256]."""
        turns = 2 * ((coords + 0.5) / self.image_size) - 1
        angles = 2 * math.pi * (turns @ self.prompts.pe_layer.positional_encoding_gaussian_matrix)
        where = torch.cat([angles.sin(), angles.cos()], dim=-1)
        labels = labels[..., None]
        where = torch.where(labels == -1, torch.zeros_like(where), where)
        rows = [self.prompts.not_a_point_embed, *self.prompts.point_embeddings]  # labels -1, 0, 1, 2, 3
        kind = torch.cat([row.weight for row in rows])[labels[..., 0].long() + 1]
        fixed = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        fixed = fixed[None].expand(coords.shape[0], -1, -1)
        return torch.cat([fixed, where + kind], dim=1)

    def dense(self, mask: Tensor | None) -> Tensor:
        """What is added to the image embedding for mask inputs [p, 1, 4E, 4E], or for none."""
        if mask is None:
            none: Tensor = self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
            return none
        embedded: Tensor = run_layers(self.prompts.mask_downscaling, mask)
        return embedded

    def decode(self, keys: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and their rated IoU from keys [p, 256, E, E], their positions [1, 256, E, E] and tokens."""
        decoder = self.decoder
        p, channels, side, _ = keys.shape
        hs, src = two_way_transformer(decoder.transformer, keys, image_pe, tokens)
        # [p, E*E, 256] -> [p, 32, 4E, 4E]
        features = run_layers(decoder.output_upscaling, src.transpose(1, 2).reshape(p, channels, side, side))
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([_head(head, hs[:, 1 + i]) for i, head in enumerate(heads)], dim=1)
        masks = (weights @ features.flatten(2).to(weights.dtype)).float()
        iou = _head(decoder.iou_prediction_head, hs[:, 0]).float()
        return masks.reshape(p, len(heads), 4 * side, 4 * side), iou


def two_way_transformer(
    transformer: Any, image: Tensor, image_pe: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """segment_anything's TwoWayTransformer on image [p, 256, E, E], image_pe [1, 256, E, E] and tokens
    [p, t, 256], all fp32: the tokens [p, t, 256] and the image [p, E*E, 256] after it.
    """
    keys, key_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
    queries = tokens
    for layer in transformer.layers:
        queries, keys = _two_way_block(layer, queries, keys, tokens, key_pe)
    found = _attention(transformer.final_attn_token_to_image, queries + tokens, keys + key_pe, keys)
    return transformer.norm_final_attn(queries + found), keys


def _two_way_block(
    layer: Any, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens attend to each other, then to the image, and the image to the tokens; all fp32."""
    if layer.skip_first_layer_pe:
        queries = _attention(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + query_pe
        queries = queries + _attention(layer.self_attn, placed, placed, queries)
    queries = layer.norm1(queries)
    found = _attention(layer.cross_attn_token_to_image, queries + query_pe, keys + key_pe, keys)
    queries = layer.norm2(queries + found)
    queries = layer.norm3(queries + mlp(layer.mlp, queries))
    found = _attention(layer.cross_attn_image_to_token, keys + key_pe, queries + query_pe, queries)
    return queries, layer.norm4(keys + found)


def _attention(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """segment_anything's decoder Attention of q [p, a, 256] over k and v [p, b, 256]: fp32 [p, a, 256].

    Keys are scaled before the product, so that scores stay small in fp16.
    """
    q = _heads(product(layer.q_proj, q), layer.num_heads)
    k = _heads(product(layer.k_proj, k), layer.num_heads)
    v = _heads(product(layer.v_proj, v), layer.num_heads)
    scores = (q @ scaled(k, k.shape[-1] ** -0.5).transpose(-2, -1)).float()
    mixed = (scores.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2)
    return product(layer.out_proj, mixed.flatten(2)).float()


def _heads(x: Tensor, heads: int) -> Tensor:
    """[p, t, heads*d] -> [p, heads, t, d]."""
    p, tokens, width = x.shape
    return x.reshape(p, tokens, heads, width // heads).transpose(1, 2)


def _head(head: Any, x: Tensor) -> Tensor:
    """segment_anything's MLP with ReLU between its layers (exact in any precision), in its weights' dtype."""
    for layer in head.layers[:-1]:
        x = product(layer, x).relu()
    return product(head.layers[-1], x)
