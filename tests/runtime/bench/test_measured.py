"""What bounds a way, from numbers worked out by hand."""

from __future__ import annotations

import pytest

from runtime.bench.measured import (
    FRAME,
    LOCAL,
    OFFLOADED,
    STAGES,
    Measured,
    Overlapped,
    SiteShare,
    limit,
    spread,
)
from runtime.check.site_speed import Rate, Way

ONE_MBIT = Rate(1.0, at_least=False)


def site(name: str, seconds: float, way: Way, windows: float = 5) -> SiteShare:
    """One that takes so long for its windows of each of two frames: 1,250 bytes up and 2,500 down."""
    return SiteShare(name, f"operator-{name}", windows, 1250, 2500, [seconds] * 2, way)


def measured(
    way: str = LOCAL, *sites: SiteShare, at_edge: float = 0, stage: str = "windows", takes: float = 0.05
) -> Measured:
    """Two frames whose steps take a hundredth of a second each, but one."""
    seconds = {**dict.fromkeys(STAGES, 0.01), stage: takes}
    total = sum(seconds.values())
    return Measured(
        way,
        {name: [value] * 2 for name, value in (*seconds.items(), (FRAME, total))},
        {},
        Overlapped(2, 20.0, "the global stage"),
        windows=15,
        at_edge=at_edge,
        bytes_up=sum(each.bytes_up for each in sites),
        bytes_down=sum(each.bytes_down for each in sites),
        sites=sites,
    )


def test_a_step_here_is_named_with_its_part_of_the_frame() -> None:
    found = measured(stage="global")
    assert limit(found) == "the global stage at the edge: 50.0 ms of the 100.0 ms of a frame"
    assert limit(measured()).startswith("the window stage at the edge: 50.0 ms")
    assert found.fps == pytest.approx(10)
    assert found.slowest == "global"


def test_a_site_that_is_slower_than_the_line_to_it_is_named() -> None:
    quick = site("a", 0.020, Way(0.001, None, None))
    slow = site("b", 0.050, Way(0.004, None, None))
    said = limit(measured(OFFLOADED, quick, slow))
    assert said == "site b: its 5 windows take 50.0 ms of the 100.0 ms of a frame, 4.0 ms of them on the line"


def test_the_line_is_named_where_it_takes_half_of_the_time() -> None:
    """1,250 bytes at a megabit a second are 10 ms, 2,500 are 20."""
    said = limit(measured(OFFLOADED, site("a", 0.05, Way(0.005, ONE_MBIT, ONE_MBIT))))
    assert said.startswith(
        "the line to site a: its 5 windows take 50.0 ms of the 100.0 ms of a frame, 35.0 ms"
    )


def test_the_line_takes_no_more_than_there_was() -> None:
    quick, slow = (site("a", seconds, Way(0.005, ONE_MBIT, ONE_MBIT)) for seconds in (0.01, 0.05))
    assert measured(OFFLOADED, quick).line_s(quick) == pytest.approx(0.01)
    assert measured(OFFLOADED, slow).line_s(slow) == pytest.approx(0.035)
    refuses_noise = site("a", 0.05, Way(0.005, ONE_MBIT, None))
    assert measured(OFFLOADED, refuses_noise).line_s(refuses_noise) == pytest.approx(0.015)


def test_the_windows_of_the_others_go_over_the_same_line() -> None:
    both = [site(name, 0.05, Way(0.005, ONE_MBIT, None)) for name in "ab"]
    assert measured(OFFLOADED, *both).line_s(both[0]) == pytest.approx(0.025)


def test_windows_that_fit_under_no_cap_are_named_where_they_take_longest() -> None:
    quick = site("a", 0.01, Way(0.001, None, None))
    said = limit(measured(OFFLOADED, quick, at_edge=3))
    assert said.startswith("the 3 windows that no site may have, which run at the edge: 50.0 ms")


def test_a_step_here_counts_with_sites_too() -> None:
    quick = site("a", 0.01, Way(0.001, None, None))
    assert limit(measured(OFFLOADED, quick, stage="global")).startswith("the global stage at the edge")


def test_the_spread_is_in_milliseconds() -> None:
    found = spread([0.001, 0.002, 0.003, 0.004])
    assert (found["p50"], found["mean"], found["least"], found["most"]) == (2.5, 2.5, 1.0, 4.0)
    assert found["p95"] == pytest.approx(3.85)
    assert found["deviation"] == pytest.approx(1.118)
