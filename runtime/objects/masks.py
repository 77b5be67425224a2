"""Masks as arrays and as COCO run-length encoding, and how well two of them agree."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

Mask: TypeAlias = npt.NDArray[np.bool_]


def iou(a: Mask, b: Mask, empty: float = 1.0) -> float:
    """Intersection over union of two masks of one shape; `empty` when neither has a pixel."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else empty


def encode_mask(mask: Mask) -> dict[str, Any]:
    """COCO run-length encoding with text counts, as JSON holds it."""
    rle = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict[str, Any]) -> Mask:
    """The mask, bool [H, W], of such an encoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 under NumPy 2
        decoded: Mask = coco.decode(rle).astype(bool)
    return decoded
