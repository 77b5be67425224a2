"""Which frames are in doubt after a site was found to lie."""

from __future__ import annotations

from runtime.results.doubts import Doubts, in_words


def test_frames_since_the_last_good_check_are_in_doubt_those_to_come_too() -> None:
    doubts = Doubts()
    for frame in range(10):
        doubts.used(frame, "ab")
    doubts.honest("b", until=4)
    assert not doubts.has(7, "ab")
    doubt = doubts.lied("b", "site b: lies")
    assert doubt.frames == [(5, 9)]
    assert doubts.take_untold() == [doubt]
    assert doubts.take_untold() == []
    doubts.used(10, "b")  # was under way
    assert doubts.has(10, "ab")
    assert not doubts.has(10, "a")
    assert not doubts.has(4, "b")
    assert [each.to_json() for each in doubts.all] == [
        {"doubtful_frames": [[5, 10]], "site": "b", "reason": "site b: lies"}
    ]
    assert doubts.frames == 6


def test_without_a_good_check_all_its_frames_are_in_doubt() -> None:
    doubts = Doubts()
    doubts.used(3, "b")
    assert doubts.lied("b", "").frames == [(3, 3)]
    assert doubts.lied("c", "").frames == []


def test_frames_of_two_liars_count_once() -> None:
    doubts = Doubts()
    for frame in range(10):
        doubts.used(frame, "ab" if frame < 6 else "b")
    doubts.lied("a", "")
    doubts.lied("b", "")
    assert doubts.frames == 10


def test_frames_that_overtake_each_other_are_one_range() -> None:
    doubts = Doubts()
    for frame in (0, 2, 1, 5, 3):
        doubts.used(frame, "a")
    doubts.honest("a", until=2)
    assert doubts.lied("a", "").frames == [(3, 5)]
    assert doubts.newest == 5


def test_memory_does_not_grow_with_the_run() -> None:
    doubts = Doubts()
    for frame in range(0, 100_000, 50):
        doubts.used(frame, "a")
    ranges = doubts.lied("a", "").frames
    assert len(ranges) == 1000
    assert ranges[-1][1] == 99_950


def test_ranges_in_words() -> None:
    assert in_words([]) == "no frame"
    assert in_words([(3, 3)]) == "frame 3"
    assert in_words([(3, 7), (40, 41)]) == "frames 3 to 7 and others"
