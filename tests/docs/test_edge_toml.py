"""docs/edge-toml.md against the options of `pedsam run`, and the example file against what reads it."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime.cli import command
from runtime.edge_toml import TABLES, read_edge
from tests.support.documents import ROOT, Document, table_rows

PAGE = Document.read("docs/edge-toml.md")
EXAMPLE = ROOT / "docs/edge.toml"
OPTIONS = {str(parameter.name): parameter for parameter in command.params}
ROWS = {name: table_rows(PAGE.section(f"## [{name}]")) for name in TABLES}


def type_in_words(option: click.Parameter) -> str:
    if option.multiple:
        return "list of texts"
    if isinstance(option.type, click.Path):
        return "path"
    if isinstance(option.type, click.types.BoolParamType):
        return "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return "whole number"
    return "number" if isinstance(option.type, click.types.FloatParamType) else "text"


def values_of(*arguments: str) -> dict[str, Any]:
    """What `pedsam run` is called with for these arguments."""
    seen: dict[str, Any] = {}

    @click.command(params=command.params)
    def noted(**values: Any) -> None:
        seen.update(values)

    result = CliRunner().invoke(noted, arguments)
    assert result.exit_code == 0, result.output
    return seen


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_documented_in_its_table(table: str) -> None:
    assert [row[0] for row in ROWS[table]] == [f"`{key}`" for key in TABLES[table]]


@pytest.mark.parametrize("row", [row for rows in ROWS.values() for row in rows], ids=lambda row: row[0])
def test_type_and_default_are_those_of_the_option(row: list[str]) -> None:
    key, kind, default, meaning = row
    name = key.strip("`")
    assert kind == type_in_words(OPTIONS[name])
    if name != "source":  # required, so without a default
        own = values_of("--source", "0")[name]
        own = None if own == () else own
        assert own == (json.loads(default.strip("`")) if default.startswith("`") else None)
    assert meaning


def test_the_example_names_every_key() -> None:
    assert set(read_edge(EXAMPLE, OPTIONS)) == {key for keys in TABLES.values() for key in keys}


def test_the_command_takes_the_example() -> None:
    """Its values too: ranges, choices, sizes."""
    values = values_of("--config", str(EXAMPLE))
    assert (values["camera_size"], values["max_fps"], values["wire"]) == ((720, 1280), 10.0, "fp16")


def test_options_without_a_key_are_told() -> None:
    without = set(OPTIONS) - {key for keys in TABLES.values() for key in keys} - {"config"}
    for name in without - {"elsewhere"}:  # which is hidden
        assert f"`{OPTIONS[name].opts[0]}`" in PAGE.text
