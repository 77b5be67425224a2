"""Which values of a picture of more than 8 bits become black and white; `media.pictures` says how."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.tensors import Array, Pixels

_SAMPLES = 1 << 22  # values of which percentiles are taken
_WHOLE_RANGES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16, 32))
_FLOAT_RANGES = (1.0, 255.0, 65535.0)
_USUAL = (1.0, 255.0, 65535.0)  # white of pictures that are shown as anybody expects
_PERCENTILES = (0.1, 99.9)
# What stands where nothing was measured, beside the ends of a type; further from 0 than the last is any.
_NO_DATA = (-9999.0, -99999.0, -32768.0)
_ENDLESS = 1e30
_BRIGHT = 3
_LEAST_VALUES = 16  # as many different ones are a picture, and not a few labels


@dataclass(frozen=True)
class ValueRange:
    """From `black` to `white`; where values are `no_data`, nothing was measured, which is drawn black."""

    black: float
    white: float
    no_data: tuple[float, ...] = ()

    def turned(self) -> ValueRange:
        return replace(self, black=self.white, white=self.black)

    def told(self) -> str | None:
        """In words; None for one that anybody expects."""
        low, high = sorted((self.black, self.white))
        if low == 0 and high in _USUAL and not self.no_data:
            return None
        without = f" without {' and '.join(f'{value:g}' for value in self.no_data)}" if self.no_data else ""
        return f"{low:g} to {high:g}{without}"

    def converter(self) -> Callable[[Array], Pixels]:
        """What makes values of any shape uint8 of the same shape."""
        table = self._to_8_bits(np.arange(1 << 16))
        return lambda values: table[values] if values.dtype == np.uint16 else self._to_8_bits(values)

    def _to_8_bits(self, values: Array) -> Pixels:
        scale = 255 / (self.white - self.black) if self.white != self.black else 0.0
        part = (values.astype(np.float64) - self.black) * scale
        pixels = (np.nan_to_num(part, nan=0, posinf=255, neginf=0).clip(0, 255) + 0.5).astype(np.uint8)
        for value in self.no_data:
            pixels[values == value] = 0
        return pixels


def find_range(parts: Iterable[Array], count: int, declared: float | None = None) -> ValueRange:
    """That of all strips of a picture, arrays of any shape that have `count` values together. `declared` is
    what the file says to stand where there are no data."""
    lowest, highest, whole, of_8_bits = np.inf, -np.inf, True, [256, 257]
    ends: tuple[float, ...] = ()
    step = -(-count // _SAMPLES)
    samples = []
    no_data = {} if declared is None else {declared: True}
    for part in parts:
        whole = part.dtype.kind in "iu"
        ends = _ends(part.dtype)
        finite = part.ravel() if whole else part[np.isfinite(part)]
        if declared is not None:
            finite = finite[finite != declared]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
            samples.append(finite[::step].copy())
        of_8_bits = [factor for factor in of_8_bits if whole and not (part % factor).any()]
    if not samples:  # not one number
        return ValueRange(0.0, 1.0)
    if of_8_bits and lowest >= 0 and highest <= 65535:
        return ValueRange(0.0, 65535.0)
    sample = np.concatenate(samples)
    for value in _set_apart(sample, lowest, highest, ends):
        no_data[value] = True
        sample = sample[sample != value]
        lowest, highest = float(sample.min()), float(sample.max())
    ranges = _WHOLE_RANGES if whole else _FLOAT_RANGES
    return ValueRange(*_chosen(lowest, highest, sample, ranges), tuple(no_data))


def _ends(dtype: np.dtype[Any]) -> tuple[float, ...]:
    """The lowest and the highest value of whole numbers."""
    if dtype.kind not in "iu":
        return ()
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _set_apart(
    sample: npt.NDArray[Any], lowest: float, highest: float, ends: Sequence[float]
) -> Iterator[float]:
    """The lowest and the highest value, where these stand for no data: usual for that, and further from the
    rest than this is wide; the highest one, which a bright sky has too, a few times as far."""
    for value in (lowest, highest):
        if value not in (*ends, *_NO_DATA) and abs(value) < _ENDLESS:
            continue
        rest = sample[sample != value]
        if not 0 < rest.size < sample.size:
            continue
        low, high = float(rest.min()), float(rest.max())
        distance = low - value if value == lowest else (value - high) / _BRIGHT
        if distance > high - low and np.unique(rest[: 1 << 16]).size > _LEAST_VALUES:
            sample = rest
            yield value


def _chosen(
    lowest: float, highest: float, sample: npt.NDArray[Any], ranges: Sequence[float]
) -> tuple[float, float]:
    """Black and white; `sample` [n] stands for all values."""
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    if low == high:  # but for a few pixels
        low, high = lowest, highest
    if sample.dtype.kind in "iu":
        low, high = math.floor(low), math.ceil(high)
    full = next((most for most in ranges if highest <= most), np.inf)
    if lowest >= 0 and full < np.inf and (high - low >= full / 2 or low == high):
        return 0.0, full
    return low, high
