"""The suite as it is run: a few seeds against real processes, interrupted and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.chaos.__main__ import main, sums
from benchmarks.chaos.draw import draw
from benchmarks.chaos.faults import HONEST
from benchmarks.chaos.judge import INVARIANTS
from tests.support.bundles import ROOT

# Chosen for what they hold and how long they take: see test_the_seeds_hold_what_they_were_chosen_for.
SEEDS = (83, 157)


def test_the_seeds_hold_what_they_were_chosen_for() -> None:
    kinds = {kind for seed in SEEDS for kind in draw(seed, HONEST).kinds}
    assert kinds >= {"kill", "edge_killed", "redirect", "json", "shape"}
    assert {draw(seed, HONEST).film for seed in SEEDS} == {0}  # one run without sites is compared with


def test_runs_with_faults_break_no_invariant(tmp_path: Path) -> None:
    out = tmp_path / "chaos.jsonl"
    seeds = ",".join(map(str, SEEDS))
    line = [sys.executable, "-m", "benchmarks.chaos", "--seeds", seeds, "--out", str(out)]
    line += ["--kinds", ",".join(HONEST)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [line["seed"] for line in lines] == list(SEEDS)
    assert all(line["done"] and not line["broken"] for line in lines)


def written_line(seed: int, **changes: Any) -> dict[str, Any]:
    line = {"seed": seed, "commit": "abc", "broken": {}, "done": {"kill": 1}, "tiles": 5, "codes": [0]}
    return line | {"seconds": 2.0, "plan": draw(seed).as_json()} | changes


def chaos(*options: str) -> Result:
    return CliRunner().invoke(main, options)


def test_seeds_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    """Also after a torn last line, which is of a seed that was not done."""
    out, summary = tmp_path / "chaos.jsonl", tmp_path / "chaos.json"
    whole = "".join(json.dumps(written_line(seed)) + "\n" for seed in (3, 4, 5))
    out.write_text(whole + '{"seed": 6, "com')
    result = chaos("--seeds", "3-5", "--out", str(out), "--resume", "--summary", str(summary))
    assert result.exit_code == 0, result.output
    assert out.read_text() == whole
    assert json.loads(summary.read_text())["runs"] == 3


def test_the_sums_and_the_exit_code_tell_what_broke(tmp_path: Path) -> None:
    out = tmp_path / "chaos.jsonl"
    lines = [written_line(1), written_line(2, broken={"caps": ["too many"], "ends": ["-6"]}, seconds=9.0)]
    found = sums(lines)
    assert found["runs_with_broken_invariants"] == 1
    assert {name for name in INVARIANTS if found["broken"][name]} == {"caps", "ends"}
    assert found["broken_seeds"] == {2: ["caps", "ends"]}
    assert (found["faults"]["kill"], found["faults"]["stop"], found["tiles_counted"]) == (2, 0, 10)
    assert (found["seconds"]["all"], found["seconds"]["longest"]) == (11, 9.0)
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert chaos("--seeds", "1-2", "--out", str(out), "--resume").exit_code == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seeds", "3-x"), "'3-x' is no number and no range like 0-499"),
        (("--kinds", "kill,sleep"), "sleep is none of stall, cut_request"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, str], says: str) -> None:
    result = chaos(*options)
    assert result.exit_code == 2
    assert says in result.output
