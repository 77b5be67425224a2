"""The bootstrap on data whose interval is known."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.statistics import interval95, percentiles_ms, share_over_half

HALVES = [0.0, 1.0] * 200  # mean 0.5, standard error of the mean 0.5 / sqrt(400) = 0.025
EACH_ITS_OWN = list(range(400))


def test_the_interval_of_independent_pictures_is_the_normal_one() -> None:
    found = interval95(HALVES, EACH_ITS_OWN, seed=1)
    assert found == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)


def test_instances_of_one_picture_do_not_count_as_independent() -> None:
    """Ten equal instances a picture say no more than one."""
    once = interval95(HALVES, EACH_ITS_OWN, seed=1)
    tenfold = interval95(np.repeat(HALVES, 10).tolist(), np.repeat(EACH_ITS_OWN, 10).tolist(), seed=1)
    assert tenfold == pytest.approx(once)


def test_a_picture_of_many_instances_weighs_as_many() -> None:
    """One picture of 9 ones and one of a single zero: resamples have the means 1, 0.9 and 0."""
    found = interval95([1.0] * 9 + [0.0], [0] * 9 + [1], seed=0)
    assert found == (0.0, 1.0)
    balanced = interval95([1.0] * 9 + [0.0] * 9, [0, 1, 2, 3, 4, 5, 6, 7, 8] * 2, seed=0)
    assert balanced == (0.5, 0.5)  # every picture has one of each


def test_equal_values_have_no_spread() -> None:
    assert interval95([0.7] * 5, [3, 3, 8, 8, 9], seed=0) == pytest.approx((0.7, 0.7))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    pictures = list(range(50))
    assert interval95(values, pictures, seed=4) == interval95(values, pictures, seed=4)
    assert interval95(values, pictures, seed=4) != interval95(values, pictures, seed=5)


def test_one_picture_has_no_interval() -> None:
    assert interval95([0.1, 0.9], [7, 7], seed=0) is None


def test_shares_and_percentiles_by_hand() -> None:
    assert share_over_half([0.5, 0.49, 0.9, 0.0]) == 0.5
    assert percentiles_ms([0.1, 0.2, 0.3]) == {"p50": 200.0, "p95": 290.0}
