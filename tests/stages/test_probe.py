"""How far an answer to the probe is from the right one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.bundle import Probe
from stages.probe import difference, relative_rms


def test_a_difference_is_relative_and_the_same_for_every_shape() -> None:
    own = np.random.default_rng(0).normal(0, 5, (5, 5, 192)).astype(np.float16)
    assert relative_rms(own, own) == 0
    assert relative_rms(np.zeros_like(own), own) == pytest.approx(1)
    assert relative_rms((own * np.float16(1.125))[None], own) == pytest.approx(0.125, rel=1e-2)
    assert math.isfinite(relative_rms(np.full_like(own, 65504), own))
    assert relative_rms(own, np.zeros_like(own)) > 1e6


def test_a_large_component_hides_no_other() -> None:
    """Of a maximum the first component's share alone would be seen."""
    expected = np.ones((1, 2, 2, 8), np.float32)
    expected[..., 0] = 10
    wrong = expected.copy()
    wrong[..., 1:] = -1
    assert difference(Probe({}, expected, {}, by_largest=True), wrong) == pytest.approx(0.2)
    assert difference(Probe({}, expected, {}), wrong) == pytest.approx(math.sqrt(7 * 4 / 107))


@pytest.mark.parametrize("by_largest", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_within_no_tolerance(by_largest: bool, value: float) -> None:
    answer = np.ones((1, 2, 2, 3), np.float32)
    answer[0, 0, 0, 0] = value
    found = difference(Probe({}, np.ones_like(answer), {}, by_largest=by_largest), answer)
    assert not found <= 1e9
