"""What a line allows by counting bytes, before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from benchmarks.fixed_latency import HEIGHT, WIDTH, Profile
from benchmarks.links.line import Link
from runtime.sites.client import WIRE_OUTPUTS
from stages.bundle import Bundle
from stages.tensors import TensorSpec


@dataclass(frozen=True)
class BytesPerFrame:
    """Bytes that one frame takes up and down."""

    up: float
    down: float


def tensor_bytes(bundle: Bundle, wire_format: str) -> BytesPerFrame:
    """Of the tensors alone, for a 16:9 frame."""
    stage, windows = bundle.stage("window"), len(bundle.geometry.windows_with_picture(HEIGHT, WIDTH))
    answers = [spec for spec in stage.outputs if spec.name in WIRE_OUTPUTS[wire_format]]
    return BytesPerFrame(windows * _row_bytes(stage.inputs), windows * _row_bytes(answers))


def _row_bytes(specs: Collection[TensorSpec]) -> int:
    """Of one row of the batch, which is the first axis."""
    return sum(math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in specs)


def bounds_fps(
    traffic: BytesPerFrame, link: Link, profile: Profile, windows: int, in_flight: int
) -> dict[str, float]:
    """The most frames a second that each part allows by itself.

    "way" is that frames under way, `in_flight` and no more, take a round trip each besides the time of the
    line's slower direction.
    """
    up_s, down_s = 8 * traffic.up / (link.up_mbit * 1e6), 8 * traffic.down / (link.down_mbit * 1e6)
    sites_s = profile.tile_s * windows / len(set(profile.operators))
    way_s = link.round_trip_s + max(up_s, down_s) + profile.tile_s
    return {
        "up": 1 / up_s,
        "down": 1 / down_s,
        "sites": 1 / sites_s,
        "edge": 1 / (profile.global_s + profile.decoder_s),
        "way": in_flight / way_s,
    }
