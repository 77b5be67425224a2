"""Pure functions of masks: the prompts drawn from a true one, the floors that need no model, and the blur."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.objects.masks import Mask, iou
from runtime.objects.prompts import Prompt
from stages.errors import InputError
from stages.tensors import Pixels

Box = tuple[int, int, int, int]

KINDS = ("point", "box")
FLOORS = ("box", "ellipse")
BLUR_SIDE_PX = 1024  # the longest side of the picture that a blur's sigma is given for


def prompt_kinds(text: str) -> tuple[str, ...]:
    """Kinds from "point,box", each once. Raises InputError for any other word."""
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                f"prompt kind {kind!r:.80} is unknown; give --prompts {' or '.join(KINDS)}, or "
                f"{','.join(KINDS)} for both"
            )
    return kinds


def prompt_for(kind: str, name: str, mask: Mask) -> Prompt:
    """The prompt of one of KINDS for a mask with at least one pixel, in pixels of the mask's frame."""
    if kind == "box":
        return Prompt(name, box_of(mask))
    x, y = deepest_point(mask)
    return Prompt(name, None, ((x, y, 1),))


def box_of(mask: Mask) -> Box:
    """The exact box of a mask bool [H, W]: left, top, and right, bottom just past its last pixels."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def deepest_point(mask: Mask) -> tuple[int, int]:
    """x and y of the pixel of a mask bool [H, W] farthest from all that is not mask; of equals, the first.

    What lies beyond the border of the picture counts as not mask.
    """
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(np.argmax(depth), depth.shape)
    return int(x) - 1, int(y) - 1


def floor_ious(mask: Mask) -> dict[str, float]:
    """IoU of a mask bool [H, W] with what its box alone gives: the box itself and the ellipse in it."""
    x0, y0, x1, y1 = box_of(mask)
    cut = mask[y0:y1, x0:x1]
    return {"box": iou(np.ones_like(cut), cut), "ellipse": iou(inscribed_ellipse(*cut.shape), cut)}


def inscribed_ellipse(height: int, width: int) -> Mask:
    """Pixels whose centre lies in the ellipse that touches the sides of a box: bool [height, width]."""
    y = (2 * np.arange(height) + 1) / height - 1
    x = (2 * np.arange(width) + 1) / width - 1
    inside: Mask = y[:, None] ** 2 + x[None] ** 2 <= 1
    return inside


def blurred(picture: Pixels, sigma: float) -> Pixels:
    """Picture uint8 [H, W, 3] under a Gaussian; `sigma` counts pixels of one scaled to BLUR_SIDE_PX."""
    if sigma == 0:
        return picture
    sigma_px = sigma * max(picture.shape[:2]) / BLUR_SIDE_PX
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.uint8)
