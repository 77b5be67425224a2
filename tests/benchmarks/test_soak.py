"""What the soak says of growth, and a few seconds of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.samples import growth_per_hour, is_flat, take, value_range
from tests.support.bundles import ROOT

HOUR = [{"s": 60.0 * minute} for minute in range(61)]


def series(name: str, start: float, per_hour: float, swing: float = 0.0) -> list[dict[str, float]]:
    """An hour that begins with a jump, as every run does, then rises, up and down by `swing`."""
    return [
        {**each, name: start / (2 if n < 3 else 1) + per_hour * each["s"] / 3600 + swing * (-1) ** n}
        for n, each in enumerate(HOUR)
    ]


def test_the_line_is_that_of_the_samples_after_the_start() -> None:
    samples = series("edge_mb", 300, 24)
    assert growth_per_hour(samples, "edge_mb") == pytest.approx(24)
    assert value_range(samples, "edge_mb") == pytest.approx([300 + 24 * 0.3, 324])
    assert growth_per_hour(samples, "site_a_mb") == 0.0


@pytest.mark.parametrize(
    ("name", "start", "per_hour", "swing", "flat"),
    [
        ("edge_mb", 300, 10, 20, True),
        ("edge_mb", 300, 60, 0, False),
        ("edge_mb", 300, -60, 0, True),
        ("edge_threads", 12, 0, 1, True),
        ("edge_threads", 12, 4, 0, False),
        ("edge_files", 40, 3, 2, True),
        ("edge_files", 40, 12, 0, False),
    ],
)
def test_flat(name: str, start: float, per_hour: float, swing: float, flat: bool) -> None:
    assert is_flat(series(name, start, per_hour, swing), name) == flat


def test_a_process_is_looked_at() -> None:
    found = take(os.getpid(), "edge")
    assert found["edge_mb"] > 10
    assert found["edge_threads"] >= 1
    with open(os.devnull):
        assert take("self", "edge")["edge_files"] >= found["edge_files"]


def test_a_process_that_is_gone_has_no_sample() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert take(process.pid, "site_a") == {}


def test_seconds_of_a_soak(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    line = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.2", "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    found = json.loads(out.read_text())
    assert found["frames"] > 0
    assert (found["frames_lost"], found["sites_wrong"]) == (0, [])
    assert found["disturbances"]["viewer_quick"] > 0
    assert any("camera_mb" in each for each in found["samples"])
    assert {"edge_mb", "edge_threads", "edge_files", "site_a_mb", "site_b_mb"} <= set(found["samples"][0])
