"""The arithmetic of benchmarks/streaming.py: when windows come, and what an undisturbed engine would do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.streaming import SITES, Schedule, computed, in_ms, in_short, ratio, timeline


def engine(**ms: float) -> Mapping[str, Mapping[str, float]]:
    return {name: {"processor_ms": value} for name, value in ms.items()}


def test_a_site_computes_its_windows_one_after_the_other() -> None:
    schedule = Schedule.of("", 0.1, 0.01)
    assert sorted(SITES) == sorted("ABC" * 5)
    assert max(schedule.arrivals_s.values()) == pytest.approx(0.15)
    assert schedule.arrivals_s[0] == pytest.approx(0.11)  # A's first
    assert schedule.arrivals_s[2] == pytest.approx(0.12)  # A's second
    slow = Schedule.of("", 0.1, 0.01, slow="A")
    assert slow.arrivals_s[2] == pytest.approx(0.2)
    assert slow.arrivals_s[1] == pytest.approx(0.11)


def test_what_is_left_after_the_last_window_is_its_own_part() -> None:
    """Rows a second apart: the last one's projection and nine pairs are left, twelve pairs are not."""
    schedule = Schedule("", {window: 1.0 + window // 5 for window in range(15)})
    forms = computed(schedule, 5, engine(whole=1000, project=10, attend=20, finish=500))
    assert in_ms(forms) == {
        "after_last_window_ms_whole": 1000,
        "after_last_window_ms_streaming": 10 + 9 * 20 + 500,
        "hidden_ms": 310,
    }
    ahead = [part for part, _, _ in forms["streaming"].parts if part != "left"]
    assert sorted(ahead) == ["attend"] * (5 + 7) + ["project"] * 2
    assert timeline(forms, "").shape[2] == 3


def test_all_at_once_nothing_is_hidden_but_what_is_kept_of_padding() -> None:
    schedule = Schedule("", dict.fromkeys(range(15), 1.0))
    forms = computed(schedule, 5, engine(whole=1000, project=10, attend=20, finish=500))
    assert in_ms(forms)["after_last_window_ms_streaming"] == 3 * 10 + 21 * 20 + 500


def test_medians_and_ratios_turn_by_turn() -> None:
    short = in_short([(3.0, 1.0), (2.0, 2.0), (9.0, 4.0)])
    assert short == {"clock_ms": 3000, "processor_ms": 2000, "processor_least_ms": 1000, "calls": 3}
    ones, others = [(0.0, 1.0), (0.0, 3.0), (0.0, 9.0)], [(0.0, 2.0), (0.0, 2.0), (0.0, 9.0)]
    assert ratio(ones, others) == {"median": 1.0, "low": 0.75, "high": 1.25}
