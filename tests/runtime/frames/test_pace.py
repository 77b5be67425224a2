"""Frames and megabits a second, on a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runtime.frames.pace import Pace

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace(clock: Clock, **limits: float) -> Pace:
    return Pace(**limits, clock=clock, sleep=clock.sleep)


async def test_without_limits_nothing_waits() -> None:
    clock = Clock()
    held = pace(clock)
    for number in range(5):
        await held.wait()
        held.sent(10**9 * number)
    assert clock.now == 100


async def test_frames_come_no_faster_than_asked() -> None:
    clock = Clock()
    held = pace(clock, max_fps=4)
    starts = []
    for work_s in (0.01, 0.01, 0.9, 0.01, 0.01):
        await held.wait()
        starts.append(clock.now)
        clock.now += work_s
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == pytest.approx([0.25, 0.25, 0.9, 0.25])


async def test_bytes_leave_no_faster_than_asked() -> None:
    clock = Clock()
    held = pace(clock, max_mbit=8)  # a megabyte a second
    for number in range(10):
        await held.wait()
        held.sent(500_000 * (number + 1))
        held.sent(500_000 * (number + 1))  # two frames under way count the same bytes
    await held.wait()
    assert clock.now - 100 == pytest.approx(5)
    clock.now += 60  # a quiet minute saves nothing up
    for number in range(10, 13):
        await held.wait()
        held.sent(500_000 * (number + 1))
    await held.wait()
    assert clock.now - 165 == pytest.approx(1.5)
