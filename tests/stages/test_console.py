"""What every command prints: in a log each sentence is one line, and nothing in it is markup."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from stages.console import make_console

ROOT = Path(__file__).parents[2]
PACKAGES = ("stages", "media", "runtime", "server", "export", "training", "evaluation", "jetson")
TENSORRT = "Could not find any implementation for node {ForeignNode[/1/Slice_4]} [E] Error[10] :key: "


@pytest.mark.parametrize("stderr", [False, True])
def test_a_sentence_is_one_line_as_it_was_written(
    stderr: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    said = 10 * TENSORRT
    make_console(stderr=stderr).print(said)
    printed = capsys.readouterr()
    assert (printed.err if stderr else printed.out) == said + "\n"


def test_a_table_in_a_log_is_as_wide_as_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("site", "what it says")
    table.add_row("[/a]", 120 * "x")
    make_console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert any(120 * "x" in line and "[/a]" in line for line in lines)
    assert {len(line) for line in lines} == {131}


def test_columns_of_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "91")
    assert make_console().width == 91


def consoles(path: Path) -> Iterator[int]:
    """Lines on which a rich Console is made."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
            yield node.lineno


def test_every_command_has_its_console_from_here() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    made = [path.relative_to(ROOT).as_posix() for path in files if any(consoles(path))]
    assert made == ["stages/console.py"]
