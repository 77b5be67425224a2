"""Names of SAM's tensors in transformers, as those of segment-anything.

Source: `transformers.models.sam.modeling_sam.SamModel`; its numbers are held to in
`tests/export/checkpoints/test_transformers_names.py`.
"""

from __future__ import annotations

import re

PARTS = ("vision_encoder", "shared_image_embedding")  # that segment-anything does not have
_FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_NAMES: tuple[tuple[str, str], ...] = (
    (r"^shared_image_embedding\.positional_embedding$", _FREQUENCIES),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", _FREQUENCIES),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\..*_(?:mlps\.\d+|head))\.proj_out\.", r"\1.layers.2."),
    (r"^(mask_decoder\..*_(?:mlps\.\d+|head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\..*_(?:mlps\.\d+|head))\.proj_in\.", r"\1.layers.0."),
    (r"\.layer_norm(\d|_final_attn)\.", r".norm\1."),
)


def own_name(name: str) -> str:
    """What segment-anything calls the tensor that transformers calls `name`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
