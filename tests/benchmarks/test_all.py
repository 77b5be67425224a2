"""The driver of all measurements: what it refuses, steps that fail, and going on after an interruption."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.all import FULL, STEPS, Step, bench, carry_out, refuse_uncommitted
from benchmarks.machine import commit, describe
from benchmarks.report import PAGE, RESULTS, SECTIONS
from tests.support.documents import ROOT


def git(root: Path, *arguments: str) -> None:
    line = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    subprocess.run(line, cwd=root, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with a source file, a file of results and the page, all committed."""
    root = tmp_path / "clone"
    for name in ("runtime/edge.py", "benchmarks/results/growth.json", "docs/results.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one\n", encoding="utf-8")
    git(root.parent, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "one")
    return root


@pytest.mark.parametrize("name", ["runtime/edge.py", "runtime/new.py"])
def test_what_is_not_committed_is_refused_in_one_sentence(name: str, clone: Path) -> None:
    refuse_uncommitted(clone)
    (clone / name).write_text("two\n", encoding="utf-8")
    with pytest.raises(click.ClickException, match=re.escape(f"not committed: {name}; commit or stash ")):
        refuse_uncommitted(clone)


def test_what_a_run_writes_itself_is_not_refused_and_not_dirty(clone: Path) -> None:
    for name in ("benchmarks/results/growth.json", "benchmarks/results/new.json", "docs/results.md"):
        (clone / name).write_text("two\n", encoding="utf-8")
    refuse_uncommitted(clone)
    assert re.fullmatch("[0-9a-f]{12}", commit(clone))
    (clone / "runtime/edge.py").write_text("two\n", encoding="utf-8")
    assert re.fullmatch("[0-9a-f]{12}-dirty", commit(clone))


def test_every_result_tells_its_commit(tmp_path: Path) -> None:
    assert describe()["commit"] == commit()
    assert commit(tmp_path) == "unknown"  # no clone, as what is packed for another machine


def step(name: str, *arguments: str, limit_s: float = 20.0) -> Step:
    return Step(name, "tests.support.step", arguments, f"{name}.json", limit_s)


def result(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def carried_out(steps: Sequence[Step], folder: Path) -> list[str]:
    return carry_out(steps, folder, folder / "notes")


def test_a_step_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [step("one"), step("two", "--code", "3"), step("three")]
    assert carried_out(steps, tmp_path) == ["two"]
    assert result(tmp_path, "three")["runs"] == 1
    assert result(tmp_path, "one")["bench"].keys() == {"seconds", "cores_busy_with_other_things"}
    assert "bench" not in result(tmp_path, "two")
    assert re.search(r"two: \d+ s, failed with code 3", capfd.readouterr().out)


def test_what_was_done_is_left_out_until_all_is_done(tmp_path: Path) -> None:
    carried_out([step("one"), step("two", "--code", "3")], tmp_path)
    assert carried_out([step("one"), step("two")], tmp_path) == []
    assert (result(tmp_path, "one")["runs"], result(tmp_path, "two")["runs"]) == (1, 2)
    assert carried_out([step("one"), step("two")], tmp_path) == []  # a run that is complete begins anew
    assert (result(tmp_path, "one")["runs"], result(tmp_path, "two")["runs"]) == (2, 3)


def test_another_commit_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/one.done").write_text("0123456789ab", encoding="utf-8")
    carried_out([step("one")], tmp_path)
    assert result(tmp_path, "one")["runs"] == 1


def test_a_step_that_hangs_is_stopped(tmp_path: Path) -> None:
    assert carried_out([step("one", "--sleep-s", "60", limit_s=1.0)], tmp_path) == ["one"]


def test_at_the_end_the_page_is_rendered_and_failures_are_told(tmp_path: Path) -> None:
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    text, page = PAGE.read_text(encoding="utf-8"), tmp_path / "page.md"
    page.write_text(
        text.replace("<!-- begin growth -->\n", "<!-- begin growth -->\nstale\n"), encoding="utf-8"
    )
    with pytest.raises(click.ClickException, match="two failed; the same command tries"):
        bench([step("two", "--code", "3")], tmp_path, tmp_path / "notes", page)
    assert page.read_text(encoding="utf-8") == text


def test_every_step_can_run_and_is_on_the_page() -> None:
    rendered = {file for _, files in SECTIONS.values() for file in files}
    for each in (*STEPS, *FULL):
        path = ROOT / each.module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        source = file.read_text(encoding="utf-8")
        options = {word for word in each.arguments if word.startswith("--")}
        if each.file:
            assert each.file in rendered
            assert all(f'"{option}"' in source for option in (*options, "--out"))
    assert len({each.name for each in (*STEPS, *FULL)}) == len(STEPS) + len(FULL)
