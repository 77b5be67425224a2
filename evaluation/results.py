"""What an evaluation measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Instance:
    """One instance. `picture` counts pictures from 0, `number` the instances of one from 1.

    `area_share` is its share of the picture's pixels; `ious` are by prompt kind, `floors` by floor; `masks`
    are what was predicted, by prompt kind, as COCO RLE, and empty where no sheet is wanted.
    """

    picture: int
    name: str
    number: int
    area_share: float
    ious: dict[str, float]
    floors: dict[str, float]
    masks: dict[str, dict[str, Any]]


@dataclass
class Measured:
    """All instances, and seconds a picture: canvas to image embedding, and all its decoder calls."""

    instances: list[Instance] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
