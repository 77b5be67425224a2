"""docs/sites.md: what it says of sites.toml, of `pedsam check` and of limits is so."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from runtime.check.check import STEPS
from runtime.check.report import LABELS
from runtime.sites.config import read_sites
from server.cli import command as serve
from stages.errors import InputError
from tests.support.documents import Document, table_rows

PAGE = Document.read("docs/sites.md")


def test_the_file_in_it_is_read(tmp_path: Path) -> None:
    (text,) = PAGE.blocks("toml")
    (tmp_path / "sites.toml").write_text(text)
    sites = read_sites(tmp_path / "sites.toml")
    assert [(site.name, site.operator) for site in sites] == [("a", "alpha"), ("b", "beta"), ("c", "gamma")]


def test_every_key_of_sites_toml_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text("[[site]]\ncolour = 1")
    with pytest.raises(InputError) as caught:
        read_sites(tmp_path / "sites.toml")
    known = str(caught.value).partition("known are ")[2].split(", ")
    rows = table_rows(PAGE.section("## sites.toml"))
    assert [key for row in rows for key in re.findall(r"`(\w+)`", row[0])] == known
    needed = {row[0].strip("`") for row in rows if row[1] == "yes"}
    assert needed == {"name", "operator", "url"}


def test_the_table_of_a_check_has_its_rows() -> None:
    (block,) = (block for block in PAGE.blocks("") if "tiles/s alone" in block)
    labels = [line.split("│")[1].strip() for line in block.splitlines() if line.startswith("│")]
    assert [LABELS.get(step, step) for step in STEPS[:-1]] == [
        label for label in labels if label in {LABELS.get(step, step) for step in STEPS}
    ]


def test_limits_are_the_defaults() -> None:
    options = {text: option for option in serve.params for text in option.opts}
    rows = table_rows(PAGE.section("## Limits of a site"))
    assert len(rows) == 10
    for name, default, _ in rows:
        option = options[name.strip("`")]
        own = option.get_default(click.Context(serve))
        assert isinstance(own, (int, float))
        assert float(default.split()[0]) == own
