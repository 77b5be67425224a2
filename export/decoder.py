"""The decoder stage as a PyTorch module: prompt encoder and mask decoder, written out in plain operators.

Like the stages of `export.modules` it holds segment_anything's layers and computes what its forward computes;
precision is the layers' (see `export.layers`). Prompts are embedded in fp32: the sine of a large angle is
lost in anything less.

What the first block makes of the image embedding alone, a fifth of an object's products, is computed once for
all objects; what a mask given with a prompt adds to it is linear in a few features of that mask.

Source: segment_anything.modeling (prompt_encoder.PromptEncoder, mask_decoder.MaskDecoder, transformer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
        shared = _rows(image_embedding + self.dense(None))
        given, spread = self.given(mask_input, has_mask_input)
        return self._masks(ImageTokens(shared, given, spread), _rows(self.image_pe), tokens)

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

    def given(self, mask: Tensor, has_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What mask inputs [p, 1, 4E, 4E] change of `dense(None)`: [p, E*E, g], zero where has_mask [p, 1] is
        not, times [g, 256].

        The last layer of SAM's mask embedding is a product; it is the latter, with its bias.
        """
        *layers, last = self.prompts.mask_downscaling
        features = _rows(run_layers(layers, mask))
        ones = torch.ones_like(features[..., :2])
        given = torch.cat([features, ones], dim=-1)
        given = torch.where(has_mask[..., None] > 0, given, torch.zeros_like(given))
        constant = [last.bias[:, None].float(), -self.prompts.no_mask_embed.weight.T]
        return given, torch.cat([last.weight.flatten(1).float(), *constant], dim=1).T

    def decode(self, keys: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and their rated IoU from keys [p, 256, E, E], their positions [1, 256, E, E] and tokens."""
        return self._masks(ImageTokens(_rows(keys)), _rows(image_pe), tokens)

    def _masks(self, image: ImageTokens, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.decoder
        hs, src = two_way_transformer(decoder.transformer, image, image_pe, tokens)
        p, places, channels = src.shape
        side = math.isqrt(places)
        # [p, E*E, 256] -> [p, 32, 4E, 4E]
        features = run_layers(decoder.output_upscaling, src.transpose(1, 2).reshape(p, channels, side, side))
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([_head(head, hs[:, 1 + i]) for i, head in enumerate(heads)], dim=1)
        masks = (weights @ features.flatten(2).to(weights.dtype)).float()
        iou = _head(decoder.iou_prediction_head, hs[:, 0]).float()
        return masks.reshape(p, len(heads), 4 * side, 4 * side), iou


@dataclass(frozen=True)
class ImageTokens:
    """The image's tokens, fp32 [p, n, 256]: shared [1 or p, n, 256] + given [p, n, g] @ spread [g, 256].

    What a layer makes of the shared part is computed once, whatever p is.
    """

    shared: Tensor
    given: Tensor | None = None
    spread: Tensor | None = None

    def projected(self, layer: Any, positions: Tensor | None = None) -> Tensor:
        """A Linear of the tokens, at their positions [1, n, 256] if given."""
        projected = product(layer, self.shared if positions is None else self.shared + positions)
        if self.given is None or self.spread is None:
            return projected
        of_given: Tensor = self.given @ (self.spread @ layer.weight.float().T)
        return projected + of_given.to(projected.dtype)

    def whole(self) -> Tensor:
        """The tokens themselves."""
        if self.given is None or self.spread is None:
            return self.shared
        return self.shared + self.given @ self.spread


def _rows(image: Tensor) -> Tensor:
    """[p, C, E, E] -> [p, E*E, C]."""
    return image.flatten(2).transpose(1, 2)


def two_way_transformer(
    transformer: Any, image: ImageTokens, image_pe: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """segment_anything's TwoWayTransformer on the image's n tokens at image_pe [1, n, 256] and on tokens
    [p, t, 256], all fp32: the tokens [p, t, 256] and the image [p, n, 256] after it.
    """
    queries = tokens
    for layer in transformer.layers:
        queries, keys = _two_way_block(layer, queries, image, tokens, image_pe)
        image = ImageTokens(keys)
    found = _to_image(transformer.final_attn_token_to_image, queries + tokens, image, image_pe)
    return transformer.norm_final_attn(queries + found), keys


def _two_way_block(
    layer: Any, queries: Tensor, image: ImageTokens, query_pe: Tensor, image_pe: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens attend to each other, then to the image, and the image to the tokens; all fp32."""
    if layer.skip_first_layer_pe:
        queries = _attention(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + query_pe
        queries = queries + _attention(layer.self_attn, placed, placed, queries)
    queries = layer.norm1(queries)
    found = _to_image(layer.cross_attn_token_to_image, queries + query_pe, image, image_pe)
    queries = layer.norm2(queries + found)
    queries = layer.norm3(queries + mlp(layer.mlp, queries))
    to_tokens, placed = layer.cross_attn_image_to_token, queries + query_pe
    asked = image.projected(to_tokens.q_proj, image_pe)
    found = _attend(to_tokens, asked, product(to_tokens.k_proj, placed), product(to_tokens.v_proj, queries))
    return queries, layer.norm4(image.whole() + found)


def _attention(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """segment_anything's decoder Attention of q [p, a, 256] over k and v [p, b, 256]: fp32 [p, a, 256]."""
    return _attend(layer, product(layer.q_proj, q), product(layer.k_proj, k), product(layer.v_proj, v))


def _to_image(layer: Any, q: Tensor, image: ImageTokens, image_pe: Tensor) -> Tensor:
    """The same over the image's tokens."""
    keys, values = image.projected(layer.k_proj, image_pe), image.projected(layer.v_proj)
    return _attend(layer, product(layer.q_proj, q), keys, values)


def _attend(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention from its projections q [p, a, heads*d], k and v [p, b, heads*d]: fp32 [p, a, 256].

    Keys are scaled before the product, so that scores stay small in fp16.
    """
    q, k, v = (_heads(each, layer.num_heads) for each in (q, k, v))
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
