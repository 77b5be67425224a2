"""Masks of one frame, as arrays and as COCO run-length encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from runtime.objects.masks import encode_mask


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """The masks of N objects on a frame of H x W pixels, in the order they were asked for.

    `masks`: bool [N, H, W]. `scores`: float32 [N], the IoU that the decoder expects of each. `logits`:
    float32 [N, M, M] at the decoder's resolution, on the canvas, for `Predictor.predict(mask_input=...)`.
    With `multimask=True` each has three masks to choose from, and all arrays another axis: [N, 3, ...].

    `sites` are the names of those that computed windows of this frame, `kept` the windows that did not leave.
    `doubtful` says that one of those sites was known to lie by then.
    """

    masks: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    sites: frozenset[str] = frozenset()
    kept: frozenset[int] = frozenset()
    doubtful: bool = False

    def __repr__(self) -> str:
        height, width = self.masks.shape[-2:]
        scores = np.array2string(self.scores, precision=2, threshold=6, separator=", ")
        return f"Masks(of {len(self.masks)} on {width} x {height}, scores={' '.join(scores.split())})"

    def best(self) -> Masks:
        """Of three masks an object the one with the highest score; itself where each has one."""
        if self.masks.ndim == 3:
            return self
        rows, columns = np.arange(len(self.masks)), self.scores.argmax(axis=1)
        return Masks(
            self.masks[rows, columns],
            self.scores[rows, columns],
            self.logits[rows, columns],
            self.sites,
            self.kept,
            self.doubtful,
        )

    @property
    def area(self) -> npt.NDArray[np.int64]:
        """Pixels of each mask, int64 [N]."""
        return np.asarray(np.count_nonzero(self.masks, axis=(-2, -1)), np.int64)

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """The box around each mask in pixels of the frame, left, top, right, bottom: float32 [N, 4]. Zeros
        where a mask is empty."""
        flat = self.masks.reshape(-1, *self.masks.shape[-2:])
        found = np.array([box_around(mask) for mask in flat], np.float32)
        return found.reshape(*self.masks.shape[:-2], 4)

    def rle(self) -> list[Any]:
        """Each mask in COCO run-length encoding with text counts, as `masks.jsonl` and pycocotools have it:
        {"size": [H, W], "counts": "..."}. A list of N; with `multimask=True` of N lists of three."""
        if self.masks.ndim == 3:
            return [encode_mask(mask) for mask in self.masks]
        return [[encode_mask(mask) for mask in three] for three in self.masks]


def box_around(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a mask [H, W]; zeros of an empty one."""
    left, top, width, height = coco.toBbox(coco.encode(np.asfortranarray(mask.view(np.uint8)))).tolist()
    return left, top, left + width, top + height
