"""The table that ends a run, and what it says limited the speed."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from runtime.results.measurements import (
    AHEAD,
    EDGE_WINDOWS,
    RECENT,
    RECENT_FRAMES,
    STEPS,
    Lost,
    RunMeasurements,
    Series,
    limited_by,
)
from runtime.results.processor import Load
from runtime.results.summary import print_summary

SUMMARY: dict[str, Any] = {
    "model": "mini",
    "weights": "untrained",
    "tiles": "dct:10/3",
    "components": 64,
    "wire": "int8",
    "frames": 9,
    "frames_lost": 2,
    "fps": 3.25,
    "latency_ms": {"windows": {"p50": 12.4, "p95": 99.6}},
    "bytes_up": 5_300_000,
    "bytes_down": 1_000_000,
    "head_bytes_up": 700_000,
    "head_bytes_down": 400_000,
    "gigabytes_an_hour_up": 2.345,
    "gigabytes_an_hour_down": 1.234,
    "price_an_hour": None,
    "windows_sent_per_frame": 15.0,
    "windows_skipped_as_padding": 10.0,
    "windows_run_at_edge": 0,
    "sites": {},
    "limited_by": "the window stage at the sites: 12 ms of every frame",
}
SITE = {
    "operator": "[alpha]",
    "state": "down",
    "failures": 2,
    "windows_seen": [3, 14],
    "tiles_served": 7,
    "operator_exposure": [3, 9, 14],
    "operator_cap": 5,
}


def printed(**more: Any) -> list[str]:
    """Lines of the table, spaces folded."""
    out = io.StringIO()
    print_summary(Console(file=out, width=120), {**SUMMARY, **more})
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_the_table_says_what_matters() -> None:
    lines = printed()
    text = "\n".join(lines)
    assert "mini, untrained weights, dct:10/3, 64 x int8" in lines[0]
    for row in ("9 (2)", "3.25", "12 / 100 ms", "15 (10)"):
        assert row in text
    assert "MB" not in text  # without sites nothing is sent
    assert "edge" not in text
    assert "IoU" not in text
    assert lines[-1] == "limited by the window stage at the sites: 12 ms of every frame"


def test_sites_are_shown_with_their_exposure_and_its_limits() -> None:
    lines = printed(sites={"[/a]": SITE}, windows_run_at_edge=4)
    text = " ".join(lines)
    assert "[/a]" in text  # names are no markup
    assert "[alpha]" in text
    assert "3 14" in text
    assert "3 of 5" in text
    assert "with a moving camera, content moves through positions" in text
    assert "windows run at the edge" in text


def test_bytes_are_shown_where_there_are_sites() -> None:
    text = "\n".join(printed(sites={"a": SITE}))
    for row in ("5.3 / 1.0 MB", "700 / 400 kB", "2.35 / 1.23 GB"):
        assert row in text
    assert "price" not in text
    assert "price of an hour's way down │ 0.11" in "\n".join(printed(sites={"a": SITE}, price_an_hour=0.111))


def test_a_site_that_fails_its_tiles_has_their_number() -> None:
    text = "\n".join(printed(sites={"a": {**SITE, "state": "failing", "failures": 3}}))
    assert "failing (3)" in text


def test_the_board_has_rows_as_far_as_it_told() -> None:
    board = {
        "readings": 9,
        "temperature_c_peak": 53.968,
        "temperature_zone_peak": "cpu",
        "power_w_mean": 6.13,
        "power_w_peak": 12.479,
        "memory_available_mb_least": 1000,
        "gpu_percent_mean": 21.0,
        "gpu_percent_peak": 63.0,
        "throttle_events": {"under-voltage": 0, "average over-current": 2},
    }
    text = "\n".join(printed(board=board))
    for row in ("54 °C (cpu)", "6.1 / 12.5 W", "1000 MB", "board throttled: average over-current", "2 times"):
        assert row in text
    assert "under-voltage" not in text
    bare: dict[str, Any] = {**dict.fromkeys(board), "throttle_events": {}}
    assert printed(board=bare) == printed(board=None) == printed()


@pytest.mark.parametrize(("iou", "shown"), [(0.99987, "0.99987"), (None, "")])
def test_the_comparison_with_the_unsplit_model_is_shown_if_there_is_one(iou: Any, shown: str) -> None:
    assert ("IoU" in "\n".join(printed(iou_with_unsplit=iou))) == bool(shown)
    assert shown in "\n".join(printed(iou_with_unsplit=iou))


def test_the_slowest_step_limits_the_speed() -> None:
    seconds = RunMeasurements().seconds
    assert limited_by(seconds, True) == "nothing: no frame was completed"
    for step in STEPS:
        seconds[step] = Series([0.1, 0.2])
    seconds["windows"] = Series([0.2, 0.8])
    assert limited_by(seconds, True) == "the window stage at the sites: 500 ms of every frame"
    seconds["track"] = Series([0.6, 0.6])
    assert limited_by(seconds, True) == ("following objects and decoding their masks: 750 ms of every frame")
    seconds["write"] = Series([0.9, 0.9])
    assert limited_by(seconds, True) == "drawing and writing results: 900 ms of every frame"


def test_the_engines_of_the_edge_count_together_and_each_is_named() -> None:
    seconds = RunMeasurements().seconds
    seconds["read"] = Series([0.01, 0.01])
    seconds["windows"], seconds["global"] = Series([0.5, 0.5]), Series([0.2, 0.2])
    assert limited_by(seconds, False) == "the global stage at the edge: 200 ms of every frame"
    seconds[EDGE_WINDOWS], seconds["decode"] = Series([0.1, 0.3]), Series([0.1, 0.1])
    assert limited_by(seconds, False) == (
        "the engines at the edge (window stage 200 ms, global stage 200 ms, mask decoder 100 ms): "
        "500 ms of every frame"
    )


def test_cores_that_are_all_busy_are_said_first() -> None:
    seconds = RunMeasurements().seconds
    seconds["write"] = Series([0.3])
    assert limited_by(seconds, True, load=Load(2, 1.9, 0.4)) == (
        "the processor, 1.9 of 2 cores busy, 0.4 of them with this process; the longest step is drawing and "
        "writing results: 300 ms of every frame"
    )
    assert limited_by(seconds, True, load=Load(2, 1.7, 1.7)).startswith("drawing and writing")


def test_a_step_that_only_keyframes_need_counts_by_their_share() -> None:
    seconds = RunMeasurements().seconds
    seconds["read"], seconds["decode"] = Series([0.01] * 4), Series([0.1] * 4)
    seconds["global"] = Series([0.3])
    assert limited_by(seconds, True).endswith("mask decoder 100 ms): 175 ms of every frame")


def test_windows_of_several_frames_at_once_count_by_their_share() -> None:
    seconds = RunMeasurements().seconds
    seconds["windows"], seconds["global"] = Series([0.5]), Series([0.3])
    assert limited_by(seconds, True, in_flight=1).startswith("the window stage")
    assert limited_by(seconds, True, in_flight=2).startswith("the global stage")


def test_what_the_global_stage_did_ahead_of_the_last_window_counts_with_the_rest() -> None:
    seconds = RunMeasurements().seconds
    seconds["windows"], seconds["global"], seconds[AHEAD] = Series([0.5]), Series([0.3]), Series([0.25])
    assert limited_by(seconds, True) == "the global stage at the edge: 550 ms of every frame"


def test_engines_that_run_in_turn_count_together() -> None:
    seconds = RunMeasurements().seconds
    seconds["windows"], seconds["global"], seconds["decode"] = Series([0.65]), Series([0.3]), Series([0.3])
    assert limited_by(seconds, True).startswith("the window stage")
    seconds["track"] = Series([0.1])
    assert limited_by(seconds, True, sequential_engines=True) == (
        "global stage, following and mask decoder, one after another: 700 ms of every frame"
    )


@pytest.mark.parametrize(
    ("wait", "words"), [("camera", "the source, which gives no frames faster"), ("pace", "--max-fps or")]
)
def test_what_reading_waits_for_limits_the_speed(wait: str, words: str) -> None:
    seconds = RunMeasurements().seconds
    seconds["global"], seconds["read"], seconds[wait] = Series([0.3]), Series([0.1]), Series([0.25])
    assert limited_by(seconds, True).startswith(words)
    assert limited_by(seconds, True).endswith("350 ms of every frame")


def test_a_series_forgets_old_values_but_not_their_number() -> None:
    series = Series()
    for value in range(3 * RECENT):
        series.add(value)
    assert (series.count, len(series.recent)) == (3 * RECENT, RECENT)
    assert series.recent_mean == 2.5 * RECENT - 0.5
    assert series.percentiles()["p50"] == pytest.approx(2.5 * RECENT - 0.5)


def measured_frames(ends: Sequence[tuple[float, float]]) -> RunMeasurements:
    """A run whose frames were finished so many seconds ago, each with its seconds from end to end."""
    measured, now_s = RunMeasurements(), time.perf_counter()
    for ago_s, seconds in ends:
        measured.seconds["end_to_end"].add(seconds, now_s - ago_s)
        measured.done_s.append(now_s - ago_s)
    return measured


def test_a_run_that_idled_and_then_works_is_told_by_its_last_frames() -> None:
    idle = [(20 - number / 10, 0.01) for number in range(160)]
    measured = measured_frames(idle + [(2.6 - number / 3, 0.5) for number in range(8)])
    assert measured.seconds["end_to_end"].percentiles()["p50"] == 0.01
    recent = measured.recent_seconds()["end_to_end"]
    assert recent.percentiles()["p50"] == 0.5
    assert recent.count == 8
    assert measured.recent_seconds()["decode"].recent_mean == 0.0
    assert measured.fps() == pytest.approx(3, rel=0.2)


def test_a_slow_run_is_told_by_its_last_frames_however_long_they_took() -> None:
    measured = measured_frames([(10.0 * ago, float(ago)) for ago in range(20, -1, -1)])
    assert list(measured.recent_seconds()["end_to_end"].recent) == list(range(RECENT_FRAMES, -1, -1))
    assert measured.fps() == pytest.approx(0.1, rel=0.01)


def test_lost_frames_are_counted_and_the_last_ones_told() -> None:
    lost = Lost()
    for number in range(1000):
        lost.add(str(number), "why")
    assert lost.count == 1000
    assert list(lost.reasons) == list(map(str, range(900, 1000)))
