"""What repeats is due at once, and then once in a while; many reasons at a time count as one."""

from __future__ import annotations

from stages.repeats import OTHERS, Repeats


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_reason_is_due_at_once_and_again_after_a_while() -> None:
    clock = Clock()
    repeats = Repeats(60, clock)
    assert repeats.add("a") == "a"
    assert repeats.is_due("a")
    assert repeats.take("a") == 1
    for _ in range(7):
        repeats.add("a")
    assert (repeats.untold(), repeats.is_due("a")) == (["a"], False)
    clock.now += 60
    assert repeats.is_due("a")
    assert repeats.take("a") == 7
    assert repeats.untold() == []


def test_reasons_beyond_the_most_count_together_until_older_ones_are_forgotten() -> None:
    clock = Clock()
    repeats = Repeats(60, clock, most=3)
    for number in range(10_000):
        reason = repeats.add(str(number))
        assert reason == (str(number) if number < 3 else OTHERS)
        if repeats.is_due(reason):
            repeats.take(reason)
    assert repeats.untold() == [OTHERS]
    clock.now += 60
    assert repeats.take(OTHERS) == 9996
    assert repeats.add("new") == "new"
