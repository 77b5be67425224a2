"""The troubleshooting table of the README against what is said of sites that fail.

`tests/runtime/test_check.py` holds every sentence of FAILING against real servers.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.check_report import LABELS
from tests.failing_sites import FAILING, Failing

README = Path(__file__).parent.parent / "README.md"
HEAD = "| `check` and `run` say | row of `check` | what to do |"


def table() -> list[tuple[str, str, str]]:
    """Message, row of the check and what to do, of each line of the table."""
    _, _, rest = README.read_text(encoding="utf-8").partition(HEAD + "\n")
    lines = rest.split("\n\n")[0].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(message.strip("`"), row, advice) for message, row, advice in rows]


def says(message: str, failing: Failing) -> bool:
    """Whether a message of the table begins the sentence; "..." stands for what differs."""
    beginning = re.escape(f"site a: {message}").replace(re.escape("..."), ".+")
    return re.match(beginning, failing.says) is not None


def test_the_table_is_there() -> None:
    assert len(table()) >= 20


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_each_message_of_the_table_is_one_that_is_said(row: tuple[str, str, str]) -> None:
    message, step, advice = row
    found = [failing for failing in FAILING.values() if says(message, failing)]
    assert len(found) == 1, message
    assert step == LABELS.get(found[0].step, found[0].step)
    assert advice


@pytest.mark.parametrize("name", FAILING)
def test_each_sentence_is_in_the_table(name: str) -> None:
    assert any(says(message, FAILING[name]) for message, _, _ in table())
