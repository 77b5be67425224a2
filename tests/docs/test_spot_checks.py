"""docs/spot-checks.md: its figures are those of the code and of benchmarks/results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from runtime.sites.spot_checks import BEGIN_S, LATER_FRAMES, SpotCheckOptions
from runtime.sites.trust import Trust, tolerance
from tests.support.documents import ROOT, Document, table_rows

PAGE = Document.read("docs/spot-checks.md")
RESULTS: dict[str, Any] = json.loads(
    (ROOT / "benchmarks/results/spot_checks.json").read_text(encoding="utf-8")
)
LIMITS, NOISE = (table_rows(PAGE.section(name)) for name in ("## When it is a lie", "### The smallest noise"))


@pytest.mark.parametrize("row", LIMITS, ids=lambda row: f"{row[0]} {row[1]}")
def test_limits_are_those_of_the_code(row: list[str]) -> None:
    stages, wires, usual, most, slack, limit, largest = row
    for stage in stages.split(", "):
        for wire in ("fp32", "fp16", "int8") if wires == "all" else wires.split(", "):
            known = tolerance(stage, wire)
            assert f"{100 * known.usual:g} %" == usual
            assert f"{100 * known.most:g} %" == most
            assert {"√3": 1.73}.get(slack) == round(known.slack, 2) or float(slack) == known.slack
            trust = Trust(known)
            assert f"{100 * trust.limit:.3g} %" == limit
            trust.connected(known.most)
            assert f"{100 * trust.limit:.2g} %" == largest


@pytest.mark.parametrize("row", NOISE, ids=lambda row: row[0])
def test_noise_is_what_was_measured(row: list[str]) -> None:
    (wire,) = (each for each in RESULTS["noise"] if row[0].startswith(each["wire"]))
    levels = {level["noise_percent"]: level for level in wire["levels"]}
    assert row[1] == f"{wire['smallest_found_percent']} %"
    assert row[2] == str(levels[wire["smallest_found_percent"]]["checks_most"])
    assert row[3] == f"{levels[1.0]['checks_most']} checks"


def test_the_other_figures_are_those_that_were_measured() -> None:
    largest = {(each["engine"], each["wire"]): each["largest_percent"] for each in RESULTS["differences"]}
    assert round(largest["fp16", "fp16"], 2) == 0.15
    assert (round(largest["bf16", "fp16"], 1), round(largest["bf16", "int8"], 1)) == (1.4, 1.7)
    assert round(largest["fp16", "int8"], 2) == 0.57
    assert RESULTS["another_tile"]["smallest_percent"] >= 25
    assert min(RESULTS["another_tile"]["same_content_elsewhere_percent"]) >= 8
    worst = max(e["largest_percent"] / e["largest_of_probes_percent"] for e in RESULTS["differences"][3:])
    assert worst <= 1.2
    assert RESULTS["machine"]["date"] in PAGE.text
    assert round(100 * RESULTS["cost"]["share_of_engine_time"], 1) <= 2.6
    default = SpotCheckOptions()
    assert f"--spot-checks {default.rate:g} --spot-check-share {default.share}" in PAGE.text
    assert (LATER_FRAMES, "fourth frame" in PAGE.text, "four frames before" in PAGE.text) == (4, True, True)
    assert f"have answered them, or after {BEGIN_S:g} s." in PAGE.text


def test_the_examples_of_the_formula_are_right() -> None:
    shares = [float(share) for share in re.findall(r"with (\d+) % after", PAGE.text)]
    assert shares == [round(100 * (1 - 0.9**checks)) for checks in (10, 30)]
