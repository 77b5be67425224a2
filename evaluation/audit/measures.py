"""What is counted of a picture: how much of it is held, how near the rest can be made, which objects."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.audit.attacks import Attack, psnr, ssim
from evaluation.audit.views import Mask, View
from evaluation.statistics import interval95
from stages.tensors import Pixels

HELD = 0.8  # of a labelled object's pixels on the canvas
MOST_REBUILT = 7  # views of a picture from which the rest is rebuilt: every second of 8 to 14, and so on


@dataclass
class Figures:
    """Values by figure, each with the number of the picture that it is of."""

    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pictures: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, figure: str, picture: int, values: Iterable[float]) -> None:
        for value in values:
            self.values[figure].append(float(value))
            self.pictures[figure].append(picture)

    def summary(self, seed: int, *, intervals: bool = True) -> dict[str, dict[str, Any]]:
        """Mean, number of values and pictures of each figure, and the 95 % interval over pictures; None where
        there is one picture, or the pictures are of one scene. Infinite values, of pixels that are exact, are
        left out and counted."""
        return {figure: self._summary(figure, seed, intervals) for figure in self.values}

    def _summary(self, figure: str, seed: int, intervals: bool) -> dict[str, Any]:
        pairs = list(zip(self.values[figure], self.pictures[figure], strict=True))
        finite = [(value, picture) for value, picture in pairs if math.isfinite(value)]
        values, pictures = [value for value, _ in finite], [picture for _, picture in finite]
        return {
            "mean": float(np.mean(values)) if values else None,
            "interval95": interval95(values, pictures, seed) if values and intervals else None,
            "values": len(values),
            "pictures": len(set(pictures)),
            "exact": len(pairs) - len(values),
        }


@dataclass
class Result:
    """What came of one setting and code, for coalitions of so many; `sent` counts what the sending did."""

    setting: str
    operators: int
    coalition: int
    code: str
    figures: Figures = field(default_factory=Figures)
    positions: float = 0.0  # the largest share of a session's windows that a coalition was sent
    sent: dict[str, int] = field(default_factory=dict)


def measure_pixels(
    figures: Figures, number: int, truth: Pixels, views: Sequence[View], attacks: Mapping[str, Attack]
) -> None:
    """Shares and reconstruction of a picture, RGB uint8 [rows, cols, 3], from what each coalition holds, by
    each of the attacks."""
    figures.add("area", number, [max(view.share for view in views)])
    figures.add("windows", number, [max(len(view.windows) for view in views)])
    for view in views[:: -(-len(views) // MOST_REBUILT)]:
        if view.known.any():
            figures.add("psnr_given", number, [psnr(truth, view.pixels, view.known)])
        hidden = ~view.known
        if hidden.any():
            for name, attack in attacks.items():
                made = attack(view)
                figures.add(f"psnr_{name.replace(' ', '_')}", number, [psnr(truth, made, hidden)])
                figures.add(f"ssim_{name.replace(' ', '_')}", number, [ssim(truth, made, hidden)])


def measure_objects(figures: Figures, number: int, objects: Sequence[Mask], views: Sequence[View]) -> None:
    """Whether some coalition holds HELD of each object; `objects` are bool [rows, cols] on the canvas."""
    held = (max(float(view.known[mask].mean()) for view in views) >= HELD for mask in objects if mask.any())
    figures.add("objects_held", number, held)
