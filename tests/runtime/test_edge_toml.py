"""edge.toml: what it may hold, what wins over it, and one sentence for each mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime import edge_toml
from runtime.cli import command
from runtime.edge_toml import TABLES, read_edge
from stages.errors import InputError

OPTIONS = {str(param.name): param for param in command.params}


def read(path: Path, text: str) -> dict[str, Any]:
    (path / "edge.toml").write_text(text)
    return read_edge(path / "edge.toml", OPTIONS)


def test_the_documented_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """The module's own text, which names every key with its default or an example."""
    documented = (edge_toml.__doc__ or "").partition("[source]")
    values = read(tmp_path, documented[1] + documented[2])
    assert set(values) == {key for keys in TABLES.values() for key in keys}
    assert values["sites"] == str(tmp_path / "sites.toml")
    assert values["source"] == "rtsp://camera/main"
    assert values["reuse_threshold"] == 0.0


def test_every_documented_default_is_the_options_own() -> None:
    context, checked = click.Context(command), set()
    for line in (edge_toml.__doc__ or "").splitlines():
        if match := re.match(r"(\w+) = .*\((\d+|\d+\.\d+|false|\".*\")\)$", line):
            default = OPTIONS[match[1]].type_cast_value(context, OPTIONS[match[1]].get_default(context))
            assert default == json.loads(match[2]), line
            checked.add(match[1])
    assert {"rotate", "in_flight", "record_mb", "realtime", "metrics_host"} <= checked


def test_every_option_that_a_service_needs_has_a_key() -> None:
    in_file = {key for keys in TABLES.values() for key in keys}
    assert in_file <= set(OPTIONS)
    assert set(OPTIONS) - in_file - {"config"} == {"boxes", "points", "verify", "new_session"}


def test_a_source_is_a_path_if_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    assert read(tmp_path, '[source]\nsource = "film.mp4"')["source"] == str(tmp_path / "film.mp4")
    assert read(tmp_path, '[source]\nsource = "0"')["source"] == "0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[source", "cannot be read"),
        ("[camera]\nsize = 1", r"unknown table \[camera\]; known are source, loop, privacy, sinks"),
        ("loop = 3", r"loop is a table: write \[loop\]"),
        ("[loop]\nmax_fsp = 3", r"\[loop\] has the unknown key 'max_fsp'; known are bundle, backend"),
        ("[sinks]\nsites = 'x'", r"\[sinks\] has the unknown key 'sites'"),
        ("[loop]\nin_flight = '2'", r"in_flight in \[loop\] is '2', expected a whole number"),
        ("[loop]\nin_flight = true", r"in_flight in \[loop\] is True, expected a whole number"),
        ("[loop]\nmax_fps = 'fast'", r"max_fps in \[loop\] is 'fast', expected a number"),
        ("[loop]\ntrack = 1", r"track in \[loop\] is 1, expected true or false"),
        ("[source]\nsource = 0", r"source in \[source\] is 0, expected text"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "edge.toml") in str(caught.value)


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, "[loop]\nmax_fps = 3")["max_fps"] == 3


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        "[loop]\nin_flight = 5\nmax_fps = 3\n[source]\nsource = '0'\n[privacy]\ninsecure = true"
    )
    seen: dict[str, Any] = {}

    @click.command(params=command.params)
    def noted(**values: Any) -> None:
        seen.update(values)

    line = ["--config", str(tmp_path / "edge.toml"), "--in-flight", "7"]
    result = CliRunner().invoke(noted, line)
    assert result.exit_code == 0, result.output
    assert (seen["in_flight"], seen["max_fps"], seen["source"]) == (7, 3.0, "0")
    assert (seen["insecure"], seen["backend"], seen["wire"]) == (True, "auto", None)


def test_values_out_of_range_are_refused_as_those_of_options_are(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("[loop]\nin_flight = 0\n[source]\nsource = '0'")
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "edge.toml")])
    assert result.exit_code == 2
    assert "0 is not in the range 1<=x<=16" in result.output
