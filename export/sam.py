"""SAM models from the segment-anything package: the one module that imports it.

Encoders returned here are in SAM's own block order; `export.stages` reorders them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from export.projection import Projection
from export.torchvision_import import make_importable
from stages.geometry import Geometry
from stages.tile_code import RGB, TileCode

make_importable()  # segment_anything imports torchvision

from segment_anything import SamPredictor, sam_model_registry  # noqa: E402
from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import window_partition, window_unpartition  # noqa: E402

__all__ = [
    "ImageEncoderViT",
    "Sam",
    "SamPredictor",
    "Weights",
    "build_sam",
    "neck",
    "randomise",
    "sam_model_registry",
    "window_partition",
    "window_unpartition",
]

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def build_sam(geometry: Geometry) -> Sam:
    """A SAM of this geometry, in evaluation mode, with the weights its modules start from."""
    if geometry.name in sam_model_registry:
        return sam_model_registry[geometry.name]()
    sam = Sam(
        image_encoder=_encoder(geometry),
        prompt_encoder=PromptEncoder(
            embed_dim=geometry.prompt_dim,
            image_embedding_size=(geometry.tokens, geometry.tokens),
            input_image_size=(geometry.image_size, geometry.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=geometry.prompt_dim, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=geometry.prompt_dim,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return sam.eval()


def _encoder(geometry: Geometry) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=geometry.image_size,
        patch_size=geometry.patch,
        embed_dim=geometry.dim,
        depth=geometry.depth,
        num_heads=geometry.heads,
        out_chans=geometry.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=geometry.window,
        global_attn_indexes=geometry.global_blocks,
    )


def neck(width: int, channels: int = 256) -> nn.Sequential:
    """The layers that end SAM's image encoder: tokens [B, width, E, E] to embeddings [B, channels, E, E]."""
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )


@torch.no_grad()
def randomise(sam: Sam, seed: int = 0) -> None:
    """Fill every tensor with non-zero random values of a size that keeps activations near one.

    SAM's own initialisation leaves position tables and norm biases at zero, where mistakes with them
    would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sam.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and name.endswith("weight"):  # norms
            tensor.copy_(1 + 0.1 * noise)
        elif "bias" in name or "rel_pos" in name:
            tensor.copy_(0.1 * noise)
        elif name.endswith("pos_embed"):
            tensor.copy_(0.5 * noise)
        elif (
            name.endswith(("_embed.weight", "_token.weight", "_tokens.weight", "gaussian_matrix"))
            or "point_embeddings" in name
        ):
            tensor.copy_(noise)
        else:  # linear and convolution weights, scaled by their fan-in
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))


@dataclass(frozen=True)
class Weights:
    """A SAM in its own block order, with what is known about its weights (see Bundle).

    `projection` is the one its window embeddings travel in, None where they travel whole; `tiles` is the
    code that its tiles travel in.
    """

    sam: Sam
    geometry: Geometry
    status: str
    trained_on: str
    projection: Projection | None = None
    tiles: TileCode = RGB
