"""Networks that are no SAM of segment-anything, or one that was changed, known by the names of their tensors.

Sources: the official checkpoints' names of HQ-SAM (arXiv 2306.01567), SAM 2 (arXiv 2408.00714), SAM 3,
EfficientViT-SAM (arXiv 2402.05008), EfficientSAM (arXiv 2312.00863), EdgeSAM (arXiv 2312.06660) and
MobileSAM (arXiv 2306.14289).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from stages.errors import CheckpointError

MOBILE_SAM = "image_encoder.patch_embed.seq.0.c.weight"  # a tensor of its encoder, and of no other SAM's
_GIVE = (
    "pedsam runs SAM as segment-anything 1.0 has it (vit_b, vit_l, vit_h) and its own mini; give one of these"
)
# Pattern of a tensor's name, what has such a tensor, what to do.
_NETWORKS: tuple[tuple[str, str, str], ...] = (
    (
        r"(^|\.)mask_decoder\.(hf_token|hq_token)\.",
        "SAM-HQ, whose decoder also reads what the encoder's blocks compute",
        _GIVE,
    ),
    (r"(^|\.)(language_backbone|detr_encoder|detector_model|vision_backbone)\.", "SAM 3", _GIVE),
    (
        r"(^|\.)(memory_encoder|memory_attention|sam_mask_decoder|image_encoder\.trunk|vision_encoder\.backbone)\.",
        "SAM 2 or a network of its kind, which has none of SAM's blocks",
        _GIVE,
    ),
    (r"(^|\.)image_encoder\.backbone\.", "EfficientViT-SAM, which has none of SAM's blocks", _GIVE),
    (r"(^|\.)prompt_encoder\.bbox_top_left_embeddings\.", "EfficientSAM, which has another encoder", _GIVE),
    (
        r"(^|\.)image_encoder\.(features|fuse_stage\d)\.",
        "EdgeSAM or RepViT-SAM, which have none of SAM's blocks",
        _GIVE,
    ),
)
# As above, of a SAM that computes something else than SAM does.
_CHANGES: tuple[tuple[str, str, str], ...] = (
    (
        r"(?i)lora|\.linear_[ab]_|(^|\.)w_[ab]_\d+(\.|$)",
        "LoRA adapters",
        "merge them into the weights (peft: model.merge_and_unload()) and save the state dict of that",
    ),
    (
        r"(?i)adapter|adaptor|prompt_generator|(^|\.)prompt_(embeddings?|tokens?)(\.|$)",
        "adapter layers, which SAM does not have",
        _GIVE,
    ),
    (
        r"_packed_params|zero_point|(^|\.)(qweight|weight_scale|scales|absmax|SCB|quant_map)$|\.quant_state",
        "quantised weights",
        "give those in fp32 or fp16 that they were made from",
    ),
)
# As above, of whole files in which no SAM was found.
_OTHERS: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)blocks\.0\.attn\.rel_pos_h$",
        "SAM's image encoder alone, without image_encoder. before its names",
    ),
    (r"(^|[._])cls_token$", "a plain vision transformer (ViT, MAE, DINO)"),
    (r"(^|\.)model\.\d+\.(conv|cv1)\.", "a YOLO (FastSAM is one)"),
)
_ULTRALYTICS = ("ultralytics.", "models.yolo.")


def refuse_networks(names: Collection[str], path: Path) -> None:
    """Raises CheckpointError for a network that is like SAM, but none, MobileSAM excepted."""
    for pattern, what, advice in _NETWORKS:
        if _first(pattern, names):
            raise CheckpointError(f"{path} is {what}: {advice}")


def refuse_mobile_sam(names: Collection[str], path: Path) -> None:
    """Raises CheckpointError for MobileSAM, which can do some of what a SAM can."""
    if MOBILE_SAM in names:
        raise CheckpointError(
            f"{path} is MobileSAM (or TinySAM), which has none of SAM's blocks: it can teach (pedsam distill "
            "--checkpoint FILE --model mini) and be measured (pedsam evaluate)"
        )


def refuse_changes(names: Collection[str], path: Path) -> None:
    """Raises CheckpointError for a SAM to which layers were added or whose weights were packed."""
    for pattern, what, advice in _CHANGES:
        if name := _first(pattern, names):
            raise CheckpointError(f"{path} holds {what} (as {name}): {advice}")


def no_sam(names: Collection[str], classes: Collection[str], path: Path) -> CheckpointError:
    """The error for a file in which nothing has SAM's names."""
    what = next((what for pattern, what in _OTHERS if _first(pattern, names)), None)
    if any(each.startswith(_ULTRALYTICS) for each in classes):
        what = "a model of ultralytics (YOLO or FastSAM)"
    if what:
        return CheckpointError(f"{path} is no SAM checkpoint but {what}: {_GIVE}")
    if not names:
        return CheckpointError(
            f"{path} is no SAM checkpoint: it holds no tensors; expected a dictionary of them"
        )
    if set(names) == {""}:
        return CheckpointError(f"{path} is no SAM checkpoint: it holds one tensor alone: {_GIVE}")
    some = ", ".join(sorted(names)[:3])
    return CheckpointError(f"{path} is no SAM checkpoint: it has no image_encoder, but {some}: {_GIVE}")


def _first(pattern: str, names: Collection[str]) -> str | None:
    return next((name for name in names if re.search(pattern, name)), None)
