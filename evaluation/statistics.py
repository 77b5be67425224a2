"""Means over instances, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_BLOCK = 100  # resamples drawn at once: bounds memory to 800 bytes a picture


def interval95(values: Sequence[float], pictures: Sequence[int], seed: int) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean of `values`, by cluster bootstrap; None for a single picture.

    Whole *pictures* are drawn with replacement, RESAMPLES times: the instances of one picture share its
    light, its scene and its annotator, so drawing instances by themselves would make it too narrow.
    `pictures` says which picture each value is of. Equal seeds give equal draws.
    """
    _, owner = np.unique(np.asarray(pictures), return_inverse=True)
    count = int(owner.max()) + 1
    if count < 2:
        return None
    means = np.concatenate(_means(np.bincount(owner, values), np.bincount(owner), seed))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _means(sums: npt.NDArray[Any], sizes: npt.NDArray[Any], seed: int) -> list[npt.NDArray[np.float64]]:
    """Means of the resamples, in blocks. `sums` of values and their `sizes` are [pictures]."""
    draw = np.random.default_rng(seed)
    equal = np.full(len(sums), 1 / len(sums))
    means = []
    for _ in range(RESAMPLES // _BLOCK):
        times = draw.multinomial(len(sums), equal, size=_BLOCK)  # [_BLOCK, pictures]
        means.append((times @ sums) / (times @ sizes))
    return means


def share_over_half(values: Sequence[float]) -> float:
    """The share of values of at least 0.5."""
    return float(np.mean(np.asarray(values) >= 0.5))


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": round(float(p50) * 1e3, 2), "p95": round(float(p95) * 1e3, 2)}
