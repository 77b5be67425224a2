"""Times of frames that are missing, go back, begin anew or jump."""

from __future__ import annotations

import pytest

from media.rising_times import RisingTimes


def clock(*own_s: float | None, joinable: bool = False) -> list[float]:
    made = RisingTimes(0.1, joinable)
    return [made.time_s(own, behind) for own, behind in zip(own_s, (*own_s[1:], None), strict=True)]


def test_times_that_are_missing_follow() -> None:
    assert clock(None, None, None) == pytest.approx([0, 0.1, 0.2])
    assert clock(-3.0, -2.9, None) == pytest.approx([0, 0.1, 0.2])


def test_a_frame_that_goes_back_is_late() -> None:
    assert clock(5.0, 5.2, 5.1, 5.4) == pytest.approx([0, 0.2, 0.201, 0.4])
    assert clock(0.0, 3.7, 1.8, 3.8) == pytest.approx([0, 3.7, 3.701, 3.8])
    unsorted = clock(0.0, 0.3, 0.1, 0.2, 0.6, 0.4, 0.5, 0.9)  # as frames are decoded, not as they are shown
    assert unsorted[1::3] == pytest.approx([0.3, 0.6, 0.9], abs=0.01)


def test_the_first_frame_of_a_recording_that_was_joined_follows_as_others_do() -> None:
    assert clock(7.0, 9.0, 0.0, 0.1, 0.2) == pytest.approx([0, 2.0, 2.1, 2.2, 2.3])
    assert clock(1.4, 1.5, 1.6, 1.4, 1.5, 1.6) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert clock(1.4, 1.5, 901.4, 901.5, joinable=True) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_jump_forwards_is_a_gap_where_recordings_are_not_joined() -> None:
    times = RisingTimes(0.1)
    assert [times.time_s(own, None) for own in (0.0, 0.1, 900.0)] == pytest.approx([0, 0.1, 900])
    assert times.gaps == [(0.1, 900.0)]
    assert times.beginnings == 0
