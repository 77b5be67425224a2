"""When a mask is to be checked, how sure it is, and what a person's word changes."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.objects.matching import Floats
from runtime.objects.trust import LIMITS, Check, Trust, Watch

SIDE = 24


def square(size: int = 8, row: int = 8, col: int = 8) -> Floats:
    labels = np.zeros((SIDE, SIDE), np.float32)
    labels[row : row + size, col : col + size] = 1
    return labels


def steady(frames: int = 5) -> Watch:
    watch = Watch()
    for _ in range(frames):
        found = watch.judge(0.9, 0.9, square())
        assert (round(found.confidence, 6), found.check) == (0.9, None)
    return watch


@pytest.mark.parametrize(
    ("rating", "agreement", "confidence"),
    [(0.9, 0.4, 0.6), (0.9, None, 0.9), (1.2, 0.25, 0.5), (-0.1, 0.5, 0.0)],
)
def test_confidence_is_the_geometric_mean_of_rating_and_agreement(
    rating: float, agreement: float | None, confidence: float
) -> None:
    assert Watch().judge(rating, agreement).confidence == pytest.approx(confidence)


@pytest.mark.parametrize(
    ("labels", "check"),
    [
        (square(8), None),
        (square(9), None),
        (square(16, 4, 4), Check.GREW),
        (square(4, 10, 10), Check.SHRANK),
        (square(8, 8, 15), Check.JUMPED),
    ],
)
def test_sudden_changes_are_marked(labels: Floats, check: Check | None) -> None:
    assert steady().judge(0.95, 0.9, labels).check is check


def test_what_grows_slowly_is_not_marked() -> None:
    watch = Watch()
    for size in np.repeat(np.arange(8, 20), 6):
        assert watch.judge(0.95, 0.9, square(int(size), 2, 2)).check is None


def test_a_mark_stays_until_the_mask_is_as_before() -> None:
    watch = steady()
    for _ in range(3):
        assert watch.judge(0.95, 0.9, square(16, 4, 4)).check is Check.GREW
    assert watch.judge(0.95, 0.9, square()).check is None


def test_a_low_confidence_is_marked_and_a_change_says_more() -> None:
    watch = steady()
    low = LIMITS.confidence - 0.01
    assert watch.judge(low, low, square()).check is Check.UNSURE
    assert watch.judge(low, low, square(16, 4, 4)).check is Check.GREW


def test_pictures_that_are_no_film_are_not_compared() -> None:
    watch = Watch()
    assert watch.judge(0.9).check is None
    assert watch.judge(LIMITS.rating - 0.01).check is Check.UNSURE


def test_what_a_person_accepts_is_what_follows_is_judged_by() -> None:
    watch = steady()
    large = square(16, 4, 4)
    assert watch.judge(0.5, 0.5, large) == Trust(0.5, Check.GREW)
    watch.accept(large)
    assert watch.last == Trust(0.5, None)
    assert watch.judge(0.46, 0.46, large).check is None
    assert watch.judge(0.44, 0.44, large).check is Check.UNSURE  # less sure than what was accepted
    assert watch.judge(0.95, 0.9, square()).check is Check.SHRANK


def test_as_json_holds_it() -> None:
    assert Trust(0.123456, Check.JUMPED).to_json() == {"confidence": 0.1235, "check": "jumped"}
    assert Trust().to_json() == {"confidence": 0.0, "check": None}
