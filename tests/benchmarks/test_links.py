"""Runs over lines: what is expected by counting, what is kept of a run, and the command from end to end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.fixed_latency import FixedEngine, Profile
from benchmarks.links.__main__ import main, table
from benchmarks.links.arithmetic import BytesPerFrame, bounds_fps, tensor_bytes
from benchmarks.links.line import Link
from benchmarks.links.pairs import WARM_UP, compared, links, steady
from benchmarks.links.records import write_records
from runtime.results.measurements import RunMeasurements
from runtime.sites.answers import to_embedding
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS
from stages.bundle import Bundle, shipped_bundle
from stages.probe import difference
from tests.support.bundles import ROOT

HOME = Link(20, 100, 0.02)
PROFILE = Profile(0.002, 0.01, 0.002)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.links", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_records(tmp_path_factory.mktemp("records") / "vit_b", "vit_b")


def test_a_frame_of_vit_b_takes_what_its_tensors_have(vit_b: Bundle) -> None:
    """15 tiles of 224 x 224 pixels up, 15 embeddings of 14 x 14 x 768 down."""
    small = tensor_bytes(vit_b, "fp16")
    assert small.up == pytest.approx(15 * 224 * 224 * 3, rel=1e-3)
    assert small.down == 15 * 14 * 14 * 768 * 2
    assert tensor_bytes(vit_b, "int8").down == 15 * 14 * 14 * (768 + 2)


def test_over_a_home_line_vit_b_has_one_frame_a_second(vit_b: Bundle) -> None:
    bounds = bounds_fps(tensor_bytes(vit_b, "fp16"), HOME, PROFILE, windows=15, in_flight=3)
    assert min(bounds, key=lambda name: bounds[name]) == "up"
    assert bounds["up"] == pytest.approx(20e6 / 8 / (15 * 150528), rel=1e-3)
    assert bounds["down"] == pytest.approx(100e6 / 8 / (15 * 301056), rel=1e-3)


def test_small_frames_are_bounded_by_the_way_and_the_engines() -> None:
    bounds = bounds_fps(BytesPerFrame(1000, 1000), Link(1000, 1000, 0.098), PROFILE, windows=15, in_flight=3)
    assert bounds["way"] == pytest.approx(3 / 0.1, rel=1e-3)
    assert bounds["sites"] == pytest.approx(1 / 0.01)
    assert bounds["edge"] == pytest.approx(1 / 0.012)


@pytest.mark.parametrize("wire_format", ["fp16", "int8"])
def test_records_answer_their_own_probe(vit_b: Bundle, wire_format: str) -> None:
    probe = vit_b.probe()
    engine = FixedEngine(vit_b, "window", 0.0)
    engine.open()
    answer = to_embedding(engine.infer(probe.inputs, WIRE_OUTPUTS[wire_format]), vit_b.embedding_dtype)
    dtype = "int8" if wire_format == "int8" else "float16"
    assert 0 < difference(probe, answer) <= probe.tolerance[dtype]
    other = {name: array + (name == "tile") for name, array in probe.inputs.items()}
    assert not engine.infer(other, WIRE_OUTPUTS[wire_format])[WIRE_OUTPUTS[wire_format][0]].any()


def measured(ends_s: Sequence[float], latency_s: Sequence[float]) -> RunMeasurements:
    found = RunMeasurements()
    for end_s, value in zip(ends_s, latency_s, strict=True):
        found.seconds["end_to_end"].add(value, end_s)
    return found


def test_beginning_and_end_of_a_run_do_not_count() -> None:
    ends_s = [*np.linspace(0, 9, WARM_UP), *np.arange(10, 20, 0.5), 100.0, 200.0]
    latency_s = [9.0] * WARM_UP + [0.2] * 19 + [0.4] + [9.0, 9.0]
    found = steady(measured(ends_s, latency_s), in_flight=2)
    assert (found["frames"], found["fps"]) == (20, pytest.approx(2.0))
    assert found["p50"] == pytest.approx(0.2)
    assert 0.2 < found["p95"] < 0.4


def test_runs_are_compared_with_those_beside_them() -> None:
    first = [{"fps": 1.0, "p50": 1.0}, {"fps": 0.5, "p50": 2.0}, {"fps": 1.0, "p50": 1.0}]
    mine = [{"fps": 10.0, "p50": 0.1}, {"fps": 5.5, "p50": 0.2}, {"fps": 9.0, "p50": 0.2}]
    found = compared(first, mine)
    assert found["times_first_fps"] == {"median": 10.0, "least": 9.0, "largest": 11.0}
    assert found["times_first_latency"]["median"] == 0.1


def test_every_rate_meets_every_round_trip() -> None:
    assert [str(link) for link in links([(20, 100), (1000, 1000)], [5, 80])] == [
        "20/100 Mbit/s, 5 ms", "20/100 Mbit/s, 80 ms", "1000/1000 Mbit/s, 5 ms", "1000/1000 Mbit/s, 80 ms",
    ]  # fmt: skip


def test_the_command_measures_in_turn_and_no_run_is_faster_than_its_line(tmp_path: Path) -> None:
    out, mini = tmp_path / "links.json", shipped_bundle()
    bundles = ("--bundle", f"fp16={mini},fp16", "--bundle", f"int8={mini},int8")
    shortest = ("--rate", "400/40", "--round-trip-ms", "4", "--seconds", "1", "--repeats", "2")
    done = run(*bundles, *shortest, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    fp16, int8 = found["rows"]
    assert (fp16["bundle"], int8["bundle"]) == ("fp16", "int8")
    assert {"machine", "commit", "engines_s", "in_flight", "repeats"} <= found.keys()
    for row in found["rows"]:
        facts = found["bundles"][row["bundle"]]
        for way in ("up", "down"):
            tensors = facts[f"tensor_bytes_{way}_per_frame"]
            assert tensors < row[f"bytes_{way}_per_frame"] < tensors + 15 * 1500  # the rest is headers
        assert len(row["fps_of_runs"]) == 2
        assert 0 < max(row["fps_of_runs"]) <= 1.05 * min(row["bound_fps"]["up"], row["bound_fps"]["down"])
        assert row["latency_ms"]["p50"] >= 4
        assert row["latency_ms"]["p95"] >= row["latency_ms"]["p50"]
    assert fp16["times_first_fps"] == {"median": 1.0, "least": 1.0, "largest": 1.0}
    ratios = [mine / base for base, mine in zip(fp16["fps_of_runs"], int8["fps_of_runs"], strict=True)]
    assert int8["times_first_fps"]["largest"] == pytest.approx(max(ratios), rel=0.01)
    assert shown(found["rows"]) in done.stdout


def test_windows_that_share_requests_are_compared_with_those_that_do_not(tmp_path: Path) -> None:
    out, thin = tmp_path / "links.json", "mini,dct:10/3,64,int8"
    records = ("--records", f"alone={thin},0", "--records", f"shared={thin}")
    shortest = ("--rate", "400/400", "--round-trip-ms", "4", "--seconds", "1", "--repeats", "1")
    done = run(*records, *shortest, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [found["bundles"][name]["request_bytes"] for name in ("alone", "shared")] == [0, REQUEST_BYTES]
    alone, shared = found["rows"]
    for way in ("up", "down"):  # 15 heads of requests and answers, and 3 of them
        assert shared[f"bytes_{way}_per_frame"] < alone[f"bytes_{way}_per_frame"] - 12 * 150


def shown(rows: list[dict[str, Any]]) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--records", "today=mini,rgb,192,fp16"], "give two bundles or more"),
        (["--records", "mini"], "'mini' is not NAME=..."),
        (["--records", "a=mini,rgb,192"], "'mini,rgb,192' is not MODEL,TILES,COMPONENTS,WIRE"),
        (["--records", "a=mini,rgb,192,fp16", "--rate", "20"], "expected UP/DOWN in Mbit/s"),
        (["--records", "a=mini,rgb,192,fp16", "--rate", "0/20"], "rates must be above 0"),
        (["--records", "a=vit_x,rgb,192,fp16"], "'vit_x' is no model"),
        (["--records", "a=mini,rgb,193,fp16"], "193 components are not from 1 to the 192 of mini"),
        (["--records", "a=mini,dct:99,192,fp16"], "expected rgb, or dct:L/C"),
        (["--records", "a=mini,rgb,192,fp16,few"], "'few' is no number of bytes"),
        (["--records", "a=mini,rgb,192,fp8"], "does not offer --wire fp8"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "links.json")])
    assert done.exit_code != 0
    assert sentence in done.output + str(done.exception)
