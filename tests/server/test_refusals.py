"""A flood of refusals is counted in full and told in few lines."""

from __future__ import annotations

import logging

import pytest

from server.refusals import Refusals


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock, caplog: pytest.LogCaptureFixture) -> Refusals:
    caplog.set_level(logging.INFO, "pedsam")
    return Refusals(60, clock)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The facts of every line so far."""
    return [record.__dict__["facts"] for record in caplog.records]


def test_the_first_is_told_at_once_and_a_flood_once_in_a_while(
    refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        refusals.refused("token")
    assert told(caplog) == [{"reason": "token", "count": 1}]
    clock.now += 59
    refusals.report()
    assert len(told(caplog)) == 1
    clock.now += 1
    refusals.refused("token", 5)
    assert told(caplog)[1:] == [{"reason": "token", "count": 1004}]
    assert refusals.counts == {"token": 1005}


def test_what_was_held_back_is_told_when_it_is_due(
    refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.refused("token")
    refusals.refused("token")
    clock.now += 60
    refusals.report()
    refusals.report()
    assert told(caplog)[1:] == [{"reason": "token", "count": 1}]


def test_reasons_are_told_apart(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.refused("token")
    refusals.refused("malformed")
    assert told(caplog) == [{"reason": "token", "count": 1}, {"reason": "malformed", "count": 1}]


def test_at_the_end_everything_is_told(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        refusals.refused("token")
    refusals.report_all()
    refusals.report_all()
    assert [line["count"] for line in told(caplog)] == [1, 2]
