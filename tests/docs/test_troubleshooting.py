"""docs/troubleshooting.md, and the table of docs/first-run.md, against what the code says.

`tests/runtime/check/test_check.py` checks every sentence of FAILING with real servers.
"""

from __future__ import annotations

import re

import pytest

from runtime.check.report import LABELS
from tests.support.documents import Document, table_rows
from tests.support.failing_sites import FAILING, Failing
from tests.support.sentences import sentences

PAGE = Document.read("docs/troubleshooting.md")
SITES = table_rows(PAGE.section("## A site cannot be used"))
FLASH = table_rows(Document.read("docs/first-run.md").section("## When it fails"))
OTHERS = [
    *table_rows(PAGE.section("## A run does not start")),
    *table_rows(PAGE.section("## Engines")),
    *FLASH,
]


def says(message: str, failing: Failing) -> bool:
    """Whether a message of the table begins the sentence; "..." stands for what differs."""
    beginning = re.escape(f"site a: {message.strip('`')}").replace(re.escape("..."), ".+")
    return re.match(beginning, failing.says) is not None


def test_the_tables_are_there() -> None:
    assert len(SITES) >= 20
    assert len(FLASH) >= 20
    assert len(OTHERS) - len(FLASH) >= 10


@pytest.mark.parametrize("row", SITES, ids=lambda row: row[0])
def test_each_message_of_a_site_is_one_that_is_said(row: list[str]) -> None:
    message, step, advice = row
    found = [failing for failing in FAILING.values() if says(message, failing)]
    assert len(found) == 1, message
    assert step == LABELS.get(found[0].step, found[0].step)
    assert advice


@pytest.mark.parametrize("name", FAILING)
def test_each_sentence_about_a_site_is_in_the_table(name: str) -> None:
    assert any(says(row[0], FAILING[name]) for row in SITES)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row[0])
def test_each_other_message_is_one_of_the_code(row: list[str]) -> None:
    message, advice = row
    wanted = re.compile(re.escape(message.strip("`")).replace(re.escape("..."), ".+"), re.DOTALL)
    assert any(wanted.match(sentence) for sentence in sentences()), message
    assert advice
