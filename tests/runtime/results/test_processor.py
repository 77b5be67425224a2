"""What the cores do, read from Linux's counters."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runtime.results import processor
from runtime.results.processor import Load, Processor


@pytest.fixture(autouse=True)
def every_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_EVERY_S", 0.0)


def counters(busy_s: float) -> str:
    """As /proc/stat has them, each core having been busy so long, a tenth of it for the kernel."""
    ticks = busy_s * os.sysconf("SC_CLK_TCK")
    cores = range(max(os.sched_getaffinity(0)) + 1)
    lines = [f"cpu{core} {0.9 * ticks:.0f} 0 {0.1 * ticks:.0f} 987654 3210 0 0 0 0 0" for core in cores]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 1 2 3"])


def test_a_load_is_what_was_busy_between_two_notes(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(counters(100), encoding="ascii")
    noted = Processor(stat)
    assert noted.load() is None
    started_s = time.perf_counter()
    time.sleep(0.2)
    stat.write_text(counters(100.1), encoding="ascii")
    noted.note()
    seconds = time.perf_counter() - started_s
    load = noted.load()
    assert load is not None
    assert load.cores == len(os.sched_getaffinity(0))
    assert load.busy == pytest.approx(load.cores * 0.1 / seconds, rel=0.2)
    assert load.own < load.busy
    assert not load.full
    assert noted.load(time.perf_counter()) is None  # nothing is known since then


def test_the_real_counters_see_a_core_that_computes() -> None:
    noted = Processor()
    stop_s = time.process_time() + 0.3
    while time.process_time() < stop_s:
        pass
    noted.note()
    load = noted.load()
    assert load is not None
    assert 0 < load.own <= load.busy <= load.cores


@pytest.mark.parametrize("text", ["", "cpu  1 2 3\nintr 4", "cpu 1\ncpu0 one two"])
def test_where_the_system_does_not_tell_there_is_no_load(tmp_path: Path, text: str) -> None:
    stat = tmp_path / "stat"
    stat.write_text(text, encoding="ascii")
    noted = Processor(stat)
    noted.note()
    assert noted.load() is None
    assert Processor(tmp_path / "nothing").load() is None


def test_a_machine_is_full_from_nine_tenths_on() -> None:
    assert Load(2, 1.8, 0.5).full
    assert not Load(2, 1.75, 0.5).full
