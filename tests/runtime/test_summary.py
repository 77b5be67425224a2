"""The table that ends a run, and what it says limited the speed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from runtime.loop import STEPS, Measured
from runtime.summary import limited_by, print_summary

SUMMARY: dict[str, Any] = {
    "model": "mini",
    "weights": "untrained",
    "wire": "int8",
    "frames": 9,
    "frames_lost": 2,
    "fps": 3.25,
    "latency_ms": {"windows": {"p50": 12.4, "p95": 99.6}},
    "bytes_up": 5_300_000,
    "bytes_down": 1_000_000,
    "windows_sent_per_frame": 15.0,
    "windows_skipped_as_padding": 10.0,
    "windows_run_at_edge": 0,
    "sites": {},
    "limited_by": "the window stage at the sites: 12 ms of every frame",
}
SITE = {
    "operator": "[alpha]",
    "state": "down",
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
    assert "mini, untrained weights, int8 wire" in lines[0]
    for row in ("9 (2)", "3.25", "12 / 100 ms", "15 (10)", "5.3 / 1.0 MB"):
        assert row in text
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


@pytest.mark.parametrize(("iou", "shown"), [(0.99987, "0.99987"), (None, "")])
def test_the_comparison_with_the_unsplit_model_is_shown_if_there_is_one(iou: Any, shown: str) -> None:
    assert ("IoU" in "\n".join(printed(iou_with_unsplit=iou))) == bool(shown)
    assert shown in "\n".join(printed(iou_with_unsplit=iou))


def test_the_slowest_step_limits_the_speed() -> None:
    measured = Measured()
    assert limited_by(measured, True) == "nothing: no frame was completed"
    for step in STEPS:
        measured.seconds[step] = [0.1, 0.2]
    measured.seconds["windows"] = [0.1, 0.5]
    assert limited_by(measured, True) == "the window stage at the sites: 300 ms of every frame"
    assert limited_by(measured, False) == "the window stage at the edge: 300 ms of every frame"
    measured.seconds["global"] = [0.9]
    assert limited_by(measured, True) == "the global stage at the edge: 900 ms of every frame"
