"""THREAT_MODEL.md: the tests it names are there and hold something."""

from __future__ import annotations

import re

import pytest

from tests.support.documents import ROOT, Document, table_rows

PAGE = Document.read("THREAT_MODEL.md")
PROMISES = table_rows(PAGE.section("## Promises"))


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:60])
def test_each_promise_names_a_test_that_exists(row: list[str]) -> None:
    _, how, shown_by, _ = row
    assert how
    named = re.findall(r"`(tests/[^`]+)`", shown_by)
    assert named or shown_by == "review"
    for name in named:
        files = sorted((ROOT / name).glob("test_*.py")) if name.endswith("/") else [ROOT / name]
        assert files
        assert all("def test_" in file.read_text(encoding="utf-8") for file in files)


def test_tests_named_without_a_folder_exist() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", PAGE.text))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_promises_are_there() -> None:
    assert len(PROMISES) >= 20
