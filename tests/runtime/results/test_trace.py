"""The timeline: what Perfetto reads, and its picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.results.trace import NO_TRACE, Trace
from stages.errors import InputError


def traced() -> Trace:
    trace = Trace()
    trace.add("windows", "frame 0", 10.0, 10.5)
    trace.add_window("a", 3, 10.1, 10.4)
    trace.add_window("a", 4, 10.2, 10.3)
    trace.add_window("a", 5, 10.4, 10.5)
    trace.add("global", "frame 0", 10.5, 11.0)
    return trace


def test_each_step_and_site_is_a_track_and_what_overlaps_has_lanes_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "trace.json"
    traced().write(path)
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(names.values()) == ["windows", "site a", "site a (2)", "global"]
    spans = [(names[e["tid"]], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [
        ("windows", "frame 0", 0, pytest.approx(5e5)),
        ("site a", "window 3", pytest.approx(1e5), pytest.approx(3e5)),
        ("site a", "window 5", pytest.approx(4e5), pytest.approx(1e5)),
        ("site a (2)", "window 4", pytest.approx(2e5), pytest.approx(1e5)),
        ("global", "frame 0", pytest.approx(5e5), pytest.approx(5e5)),
    ]
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    assert sorted(order, key=lambda tid: order[tid]) == list(names)


def test_counters_are_beside_the_tracks_on_the_same_clock() -> None:
    trace = traced()
    trace.add_counter("GPU load (%)", 9.5, 62.0)
    trace.add_counter("GPU load (%)", 10.5, 0.0)
    events = trace.events()["traceEvents"]
    counters = [event for event in events if event["ph"] == "C"]
    assert [(e["name"], e["ts"], e["args"]) for e in counters] == [
        ("GPU load (%)", 0, {"value": 62.0}),
        ("GPU load (%)", 1e6, {"value": 0.0}),
    ]
    assert min(event["ts"] for event in events if event["ph"] == "X") == pytest.approx(5e5)
    assert np.array_equal(trace.picture(), traced().picture())  # of steps and sites alone


def test_the_picture_shows_each_track_where_it_was_busy(tmp_path: Path) -> None:
    traced().write(tmp_path / "trace.json")
    picture = cv2.imread(str(tmp_path / "trace.png"))
    assert picture is not None
    assert np.array_equal(picture[..., ::-1], traced().picture())
    bars = picture[:, 160:1580]
    first, last = bars[:36], bars[72:108]
    half = bars.shape[1] // 2
    for row, busy, idle in (
        (first, slice(0, half - 20), slice(half + 20, None)),
        (last, slice(half + 20, None), slice(0, half - 20)),
    ):
        assert row[18, busy].mean() < 250
        assert (row[18, idle] == 255).all()


def test_only_the_last_spans_are_kept_and_no_trace_keeps_none() -> None:
    trace = Trace(spans=3, values=2)
    for number in range(10):
        trace.add("read", f"frame {number}", number, number + 1)
        trace.add_counter("load", number, number)
        NO_TRACE.add_counter("load", number, number)
        NO_TRACE.add("read", "x", number, number + 1)
    names = [event["name"] for event in trace.events()["traceEvents"] if event["ph"] == "X"]
    assert names == ["frame 7", "frame 8", "frame 9"]
    values = [e["args"]["value"] for e in trace.events()["traceEvents"] if e["ph"] == "C"]
    assert values == [8, 9]
    assert NO_TRACE.events()["traceEvents"] == []
    assert NO_TRACE.picture().shape[1] == 1600


def test_a_trace_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        traced().write(tmp_path / "file" / "trace.json")
