"""How sure the mask of an object is, and whether a person should look at it.

Two numbers are at hand for every mask and cost next to nothing: what the decoder rates it, and how well it
agrees with the labels that were propagated to its frame (`runtime.objects.matching`). Their geometric mean is
the confidence, 0..1; where nothing was propagated it is the rating alone. A mask is to be checked when its
confidence is low, or when it is suddenly larger, smaller or elsewhere than on the frames before. What both
are worth on video with true masks is measured by benchmarks/trust.py, by which the limits were chosen.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.objects.matching import Floats


class Check(enum.Enum):
    """Why a mask is to be checked."""

    UNSURE = "unsure"
    GREW = "grew"
    SHRANK = "shrank"
    JUMPED = "jumped"


@dataclass(frozen=True)
class Trust:
    """Of one mask: `confidence` 0..1, and why it is to be checked, None where it need not be."""

    confidence: float = 0.0
    check: Check | None = None

    def to_json(self) -> dict[str, Any]:
        """As masks.jsonl and the preview's protocol hold it."""
        return {
            "confidence": round(self.confidence, 4),
            "check": None if self.check is None else self.check.value,
        }


UNJUDGED = Trust()


@dataclass(frozen=True)
class Limits:
    """From where on a mask is to be checked.

    `confidence` below which it is unsure, and `rating` where that alone is known. `growth` and `shrinkage`
    are its area in parts of the usual one, the median of the last `frames` that were not to be checked;
    `jump` is how far its centre moves from one frame to the next, in sides of a square of the usual area.
    """

    confidence: float = 0.7
    rating: float = 0.6
    growth: float = 2.0
    shrinkage: float = 0.5
    jump: float = 0.6
    frames: int = 10


ACCEPTED = (
    0.9  # of the confidence in a mask that a person said is right, below which those after it are unsure
)


LIMITS = Limits()


class Watch:
    """Judges the masks of one object, one frame after another."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.last = Trust()
        self._accepted = 1.0  # confidence below which a mask is unsure, if that is less than the limit
        self._areas: deque[float] = deque(maxlen=limits.frames)
        self._centre: tuple[float, float] | None = None

    def judge(self, rating: float, agreement: float | None = None, labels: Floats | None = None) -> Trust:
        """Of the next mask: `rating` is the decoder's, `agreement` its IoU with what was expected, None where
        nothing was, and `labels` how much of each token it covers, [G, G]; None where frames are no film."""
        confidence, least = min(max(rating, 0.0), 1.0), self.limits.rating
        if agreement is not None:
            confidence, least = math.sqrt(confidence * agreement), self.limits.confidence
        check = None if labels is None else self._change(labels)
        if check is None and confidence < min(least, self._accepted):
            check = Check.UNSURE
        self.last = Trust(confidence, check)
        return self.last

    def accept(self, labels: Floats | None = None) -> None:
        """The mask with these labels is right, a person says: what follows is judged by it."""
        self._accepted = ACCEPTED * self.last.confidence
        self._areas.clear()
        if labels is not None:
            self._note(labels)
        self.last = Trust(self.last.confidence)

    def _change(self, labels: Floats) -> Check | None:
        """What changed suddenly; a mask that is to be checked changes nothing of what is usual."""
        if not self._areas:
            self._note(labels)
            return None
        change = self._compared(float(labels.sum()), _centre(labels))
        if change is None:
            self._note(labels)
        else:
            self._centre = _centre(labels)
        return change

    def _compared(self, area: float, centre: tuple[float, float]) -> Check | None:
        usual = float(np.median(self._areas))
        if area > self.limits.growth * usual:
            return Check.GREW
        if area < self.limits.shrinkage * usual:
            return Check.SHRANK
        moved = math.dist(centre, self._centre) if self._centre is not None else 0.0
        return Check.JUMPED if moved > self.limits.jump * math.sqrt(usual) else None

    def _note(self, labels: Floats) -> None:
        self._areas.append(float(labels.sum()))
        self._centre = _centre(labels)


def _centre(labels: Floats) -> tuple[float, float]:
    """Row and column, in tokens, of the middle of what is covered."""
    rows, cols = labels.sum(axis=1), labels.sum(axis=0)
    places, whole = np.arange(len(labels)), max(float(labels.sum()), 1e-9)
    return float(rows @ places) / whole, float(cols @ places) / whole
