"""Where the time of steps went, as it is reported once a session."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from tests.support.training import CPU, ignore, trainer
from training.split_times import SplitTimes
from training.trainer import TIMED_FROM, TIMED_STEPS


def test_parts_add_up_to_what_passed() -> None:
    times = SplitTimes()
    before = time.perf_counter()
    times.start(CPU)
    for _ in range(2):
        torch.randn(300, 300).square().sum()
        times.mark("squares")
        torch.randn(300, 300).sqrt().sum()
        times.mark("roots")
    took = times.stop(steps=2)
    passed_ms = 1000 * (time.perf_counter() - before)
    assert took.keys() == {"ms squares", "ms roots"}
    assert all(part > 0 for part in took.values())
    assert 2 * sum(took.values()) <= passed_ms


def test_nothing_is_taken_outside_of_start_and_stop() -> None:
    times = SplitTimes()
    times.mark("early")
    times.start(CPU)
    times.mark("in time")
    assert times.stop(steps=1).keys() == {"ms in time"}
    times.mark("late")
    times.mark("later")
    assert times.stop(steps=1) == {}


def test_a_session_reports_its_parts_once(tmp_path: Path) -> None:
    run = trainer(tmp_path / "a.state", steps=TIMED_FROM + TIMED_STEPS + 2)
    assert run.run(ignore)
    rows = [json.loads(line) for line in run.curve_path.read_text("utf-8").splitlines()]
    (timed,) = [row for row in rows if "ms data" in row]
    assert timed.pop("step") == TIMED_FROM + TIMED_STEPS
    parts = {"ms data", "ms encoder", "ms decoder and loss", "ms backward", "ms optimiser"}
    assert timed.keys() == parts
    assert min(timed.values()) >= 0
