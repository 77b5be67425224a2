"""The bars: their colours, and that their lengths are the steps' times."""

from __future__ import annotations

import numpy as np

from runtime.bench.measured import FRAME, LOCAL, OFFLOADED, STAGES, Measured, Overlapped
from runtime.bench.picture import WIDTH, picture
from runtime.results.sinks import PALETTE
from stages.tensors import Pixels


def measured(way: str, **stages: float) -> Measured:
    seconds = dict.fromkeys(STAGES, 0.01) | stages
    every = {name: [value] for name, value in (*seconds.items(), (FRAME, sum(seconds.values())))}
    return Measured(way, every, {}, Overlapped(1, 1.0, ""), windows=15, at_edge=0)


def lengths(image: Pixels, row: int) -> dict[str, int]:
    """Pixels of each step's colour in a row of the picture."""
    return {
        name: int(np.all(image[row] == colour, axis=1).sum())
        for name, colour in zip(STAGES, PALETTE, strict=False)
    }


def test_bars_are_as_long_as_their_steps() -> None:
    local, offloaded = measured(LOCAL, windows=0.08), measured(OFFLOADED, windows=0.02)
    image = picture([local, offloaded], "a bench")
    assert image.shape[1:] == (WIDTH, 3)
    assert image.dtype == np.uint8
    first, second = (lengths(image, row) for row in (70, 142))  # above the figures in them
    assert abs(first["windows"] - 8 * first["global"]) <= 8
    assert abs(second["windows"] - 2 * second["global"]) <= 3
    assert first["global"] == second["global"] > 50  # on one scale


def test_one_way_alone_and_odd_words_are_drawn() -> None:
    one, two = (picture([measured(LOCAL)] * count, "Jürgen's board") for count in (1, 2))
    assert one.shape[0] < two.shape[0]
