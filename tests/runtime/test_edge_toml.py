"""edge.toml: what it may hold, what wins over it, and one sentence for each mistake.

Every key, its type and default: `tests/docs/test_edge_toml.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime.cli import command
from runtime.edge_toml import TABLES, read_edge
from stages.errors import InputError

OPTIONS = {str(param.name): param for param in command.params}


def read(path: Path, text: str) -> dict[str, Any]:
    (path / "edge.toml").write_text(text)
    return read_edge(path / "edge.toml", OPTIONS)


def test_values_are_those_of_the_file_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    text = "[source]\nsource = 'rtsp://camera/main'\n[privacy]\nsites = 'sites.toml'\nreuse_threshold = 0.0"
    assert read(tmp_path, text) == {
        "source": "rtsp://camera/main",
        "sites": str(tmp_path / "sites.toml"),
        "reuse_threshold": 0.0,
    }


def test_every_option_that_a_service_needs_has_a_key() -> None:
    in_file = {key for keys in TABLES.values() for key in keys}
    assert in_file <= set(OPTIONS)
    of_one_run = {"boxes", "points", "fps", "verify", "new_session", "dry_run", "elsewhere"}
    assert set(OPTIONS) - in_file - {"config"} == of_one_run


def test_mini_is_the_bundle_that_comes_with_pedsam(tmp_path: Path) -> None:
    text = "[loop]\nbundle = 'mini'"
    assert read(tmp_path, text)["bundle"] == "mini"  # for the option, which knows it
    (tmp_path / "mini").mkdir()
    assert read(tmp_path, text)["bundle"] == str(tmp_path / "mini")


def test_a_source_is_a_path_if_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    assert read(tmp_path, '[source]\nsource = "film.mp4"')["source"] == str(tmp_path / "film.mp4")
    assert read(tmp_path, '[source]\nsource = "0"')["source"] == "0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[source", "cannot be read"),
        ("[camera]\nsize = 1", r"unknown table \[camera\]; known are source, loop, privacy, sinks"),
        ('[sinks]\nout = ""', r"line 2: out in \[sinks\]: it is empty; name a file or folder, or leave"),
        ("loop = 3", r"loop is a table: write \[loop\]"),
        ("[loop]\nmax_fsp = 3", r"\[loop\] has the unknown key 'max_fsp'; known are bundle, backend"),
        ("[sinks]\nsites = 'x'", r"\[sinks\] has the unknown key 'sites'"),
        ("[loop]\nin_flight = '2'", r"in_flight in \[loop\] is '2', expected a whole number"),
        ("[loop]\nin_flight = true", r"in_flight in \[loop\] is True, expected a whole number"),
        ("[loop]\nmax_fps = 'fast'", r"max_fps in \[loop\] is 'fast', expected a number"),
        ("[loop]\ntrack = 1", r"track in \[loop\] is 1, expected true or false"),
        ("[source]\nsource = ['rtsp://a:b@c']", r"source in \[source\] is a list or a table, expected text"),
        ("[source]\nsource = 1.5", r"source in \[source\] is 1\.5, expected text"),
        (
            "[source]\nsource = 2020-01-02",
            r"is datetime.date\(2020, 1, 2\), expected text",
        ),
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


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("loop", "in_flight", "0", "0 is not in the range 1<=x<=16"),
        ("loop", "max_fps", "nan", "nan is no number up to 1000000000"),
        ("loop", "max_fps", "-1", "-1.0 is not in the range x>0"),
        ("loop", "backend", "'gpu'", "'gpu' is not one of"),
        ("source", "rotate", "45", "45 degrees is no turn, expected one of 0, 90, 180, 270"),
        ("source", "camera_size", "'big'", "expected a size in pixels like 1920x1080, not 'big'"),
        ("source", "camera_proxy", "'socks://a:b@c'", "it is no address of a proxy, expected like http://"),
        ("sinks", "preview", "70000", "70000 is not in the range 0<=x<=65535"),
    ],
)
def test_values_out_of_range_are_told_with_file_line_and_key(
    tmp_path: Path, table: str, key: str, value: str, words: str
) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f"# an edge\n[{table}]\n{key} = {value}\n")
    result = CliRunner().invoke(command, ["--config", str(path)])
    with pytest.raises(InputError) as told:
        read_edge(path, OPTIONS)
    assert str(told.value).startswith(f"edge file {path}, line 3: {key} in [{table}]: {words}")
    assert str(result.exception) == str(told.value)
