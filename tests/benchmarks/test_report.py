"""The page of results: what stands between its markers is what the files give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import report
from benchmarks.report import PAGE, RESULTS, SECTIONS, differing, main, rendered

PAGE_TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the results that sections are made of."""
    for _, files in SECTIONS.values():
        for file in filter(lambda file: (RESULTS / file).exists(), files):
            (tmp_path / file).write_bytes((RESULTS / file).read_bytes())
    return tmp_path


def changed(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values), encoding="utf-8")


def check(page: str, results: Path, tmp_path: Path, *options: str) -> Any:
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    return CliRunner().invoke(main, ["--page", str(path), "--results", str(results), *options])


def test_another_number_in_a_file_is_another_page(results: Path, tmp_path: Path) -> None:
    assert differing(PAGE_TEXT, results) == []
    changed(results / "three_sites_mini.json", command_s=77.7)
    assert differing(PAGE_TEXT, results) == ["three_sites"]
    found = check(PAGE_TEXT, results, tmp_path, "--check")
    assert found.exit_code == 1
    assert (
        "is not what the files of results give in three_sites: run python -m benchmarks.report"
        in found.output
    )
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == PAGE_TEXT
    assert check(PAGE_TEXT, results, tmp_path).exit_code == 0
    assert "| `pedsam run`, start to end | 77.7 s |" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_what_is_written_by_hand_stays(results: Path) -> None:
    text = PAGE_TEXT.replace("<!-- begin growth -->\n", "<!-- begin growth -->\nstale\n").replace(
        "## Growth\n", "## Growth\n\nby hand\n"
    )
    new = rendered(text, results)
    assert "stale" not in new
    assert new == PAGE_TEXT.replace("## Growth\n", "## Growth\n\nby hand\n")


def test_a_busy_machine_is_told(results: Path) -> None:
    changed(results / "three_sites_mini.json", bench={"cores_busy_with_other_things": 1.26})
    told = "Something else kept the machine busy meanwhile: 1.3 cores (three_sites_mini)."
    assert told in report.section("three_sites", results)


def test_optional_files_may_be_missing_and_the_first_may_not(results: Path, tmp_path: Path) -> None:
    (results / "three_sites_vit_b.json").unlink()
    assert "vit_b" not in report.section("three_sites", results)
    (results / "three_sites_mini.json").unlink()
    found = check(PAGE_TEXT, results, tmp_path, "--check")
    assert found.exit_code == 1
    assert "is not there, from which the section three_sites is made" in found.output


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (PAGE_TEXT.replace("<!-- end growth -->\n", ""), "needs the lines <!-- begin growth -->"),
        (PAGE_TEXT + "<!-- begin growth -->\n", "needs the lines <!-- begin growth -->"),
        (PAGE_TEXT + "<!-- begin weather -->\n", "marks a section weather, which SECTIONS"),
    ],
)
def test_wrong_markers_are_told(page: str, told: str, results: Path, tmp_path: Path) -> None:
    found = check(page, results, tmp_path, "--check")
    assert found.exit_code == 1
    assert told in found.output
    assert "Traceback" not in found.output


def test_a_file_that_is_cut_off_is_told(results: Path, tmp_path: Path) -> None:
    (results / "throughput_mini.json").write_text('{"model": ', encoding="utf-8")
    found = check(PAGE_TEXT, results, tmp_path)
    assert found.exit_code == 1
    assert "throughput_mini.json is not JSON" in found.output
