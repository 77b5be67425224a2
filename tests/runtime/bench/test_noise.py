"""Frames that nobody took."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np

from runtime.bench.noise import STEPS, NoiseSource, moving_noise
from runtime.frames.canvas import make_canvas
from stages.bundle import Bundle


def test_they_are_the_same_in_every_run() -> None:
    for one, other in zip(islice(moving_noise(36, 64), 3), moving_noise(36, 64), strict=False):
        assert one.shape == (36, 64, 3)
        assert one.dtype == np.uint8
        assert np.array_equal(one, other)


def test_no_window_is_as_it_was_in_the_frame_before(mini_bundle: Bundle) -> None:
    """One that is would not be computed again."""
    frames = islice(moving_noise(360, 640), STEPS + 2)  # over the end and on from the start
    canvases = [make_canvas(frame, mini_bundle.geometry) for frame in frames]
    for before, after in pairwise(canvases):
        assert not any(np.array_equal(before.tile(window), after.tile(window)) for window in after.windows)


def test_a_source_ends_with_its_count_or_its_time() -> None:
    frames = moving_noise(36, 64)
    assert [f.number for f in NoiseSource(frames, (36, 64), 4, 60.0, least=1)] == [0, 1, 2, 3]
    assert [f.number for f in NoiseSource(frames, (36, 64), 9, 0.0, least=2)] == [0, 1]
    assert NoiseSource(frames, (36, 64), 1, 0.0, least=1).sizes() == {(36, 64)}
