"""`pedsam evaluate --record`: the mean IoU of a bundle lies in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import pedsam
from stages.bundle import Bundle
from tests.support.engines import linked
from tests.support.format_1 import as_format_1


@pytest.fixture
def distilled(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    """Random weights that say they were distilled."""
    bundle = replace(linked(mini_bundle, tmp_path / "bundle"), weights="distilled")
    bundle.save()
    return bundle


def evaluate(bundle: Path, pairs: Path, *more: str) -> Result:
    line = ["evaluate", "--bundle", bundle, "--data", pairs, "--out", pairs.parent / "out", "--threads", "1"]
    return CliRunner().invoke(pedsam.main, [*map(str, line), "--no-sheet", "--record", *more])


def test_what_was_measured_is_kept(distilled: Bundle, pairs: Path) -> None:
    result = evaluate(distilled.path, pairs)
    assert result.exit_code == 0, result.output
    assert f"recorded in {distilled.path}/bundle.json" in "".join(result.output.splitlines())
    report = json.loads((pairs.parent / "out/report.json").read_text())
    kept = Bundle.load(distilled.path)
    assert kept.measured["miou"] == report["miou"]
    assert (kept.measured["pictures"], kept.measured["wire"]) == (3, "fp16")
    assert kept.site_digest == distilled.site_digest
    assert replace(kept, measured={}) == distilled


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--limit", "1"], "leave --blur and --limit out"),
        (["--blur", "3"], "leave --blur and --limit out"),
    ],
)
def test_what_says_nothing_of_the_bundle_is_not_kept(
    distilled: Bundle, pairs: Path, more: list[str], words: str
) -> None:
    result = evaluate(distilled.path, pairs, *more)
    assert result.exit_code == 1
    assert words in result.output
    assert not Bundle.load(distilled.path).measured


def test_format_1_holds_none(distilled: Bundle, pairs: Path, tmp_path: Path) -> None:
    old = as_format_1(distilled, tmp_path / "old")
    assert "has format 1, which holds no mean IoU" in " ".join(evaluate(old.path, pairs).output.split())


def test_weights_that_segment_nothing_are_not_recorded(mini_bundle: Bundle, pairs: Path) -> None:
    assert "are untrained: their masks say nothing" in evaluate(mini_bundle.path, pairs).output


def test_without_a_bundle_nothing_is_recorded(pairs: Path) -> None:
    line = ["evaluate", "--data", pairs, "--out", pairs.parent / "out", "--record"]
    result = CliRunner().invoke(pedsam.main, list(map(str, line)))
    assert "--record keeps the result in the bundle that was measured; give --bundle" in result.output
