"""Options given by environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pedsam.command import COMMANDS, main
from tests.support.fakes import tiny_bundle

RUNNER = CliRunner()


def serve(*arguments: str, **variables: str) -> Result:
    return RUNNER.invoke(main, ["serve", *arguments], env=variables)


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("PEDSAM_SERVE_PORT", "--port"),
        ("PEDSAM_SERVE_HEALTH_PORT", "--health-port"),
        ("PEDSAM_SERVE_LOG", "--log"),
        ("PEDSAM_SERVE_MAX_CONNECTIONS", "--max-connections"),
    ],
)
def test_a_variable_is_named_like_its_option(variable: str, option: str) -> None:
    result = serve(**{variable: "wrong"})
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output


def test_what_is_typed_wins() -> None:
    result = serve("--port", "wrong", PEDSAM_SERVE_PORT="8001")
    assert "'wrong' is not a valid integer" in result.output


def test_several_bundles_are_parted_like_paths(tmp_path: Path) -> None:
    tiny_bundle(tmp_path).save()
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "other")])
    result = serve(PEDSAM_SERVE_BUNDLE=paths)
    assert result.output.startswith(f"Error: {tmp_path / 'other'} is no bundle")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_variable_of_its_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    variables = [option.envvar for option in command.params if isinstance(option, click.Option)]
    assert all(str(variable).startswith(f"PEDSAM_{name.upper()}_") for variable in variables)
    assert len(set(map(str, variables))) == len(variables)


def test_a_variable_that_no_option_has_is_told() -> None:
    result = serve(PEDSAM_SERVE_PROT="8001", PEDSAM_RUN_SOURCE="0", PEDSAM_SERVE_PORT="wrong")
    told = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert told == ["warning: PEDSAM_SERVE_PROT does nothing: `pedsam serve` has no such option"]
