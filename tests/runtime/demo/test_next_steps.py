"""The commands that the demo ends with are those of this installation, and are there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from pedsam import main
from runtime.demo.next_steps import next_steps, own_command


@pytest.mark.parametrize(
    ("started", "in_path", "command"),
    [
        (".venv/bin/pedsam", False, ".venv/bin/pedsam"),
        ("bin/pedsam", True, "pedsam"),
        ("pedsam.py", False, "pedsam"),
        ("-c", False, "pedsam"),
    ],
)
def test_a_command_is_shown_as_it_can_be_typed(
    started: str, in_path: bool, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/pedsam"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent) if in_path else "")
    monkeypatch.setattr(sys, "argv", [str(program) if in_path else started])
    assert own_command() == command


def test_both_commands_have_options_that_there_are() -> None:
    commands = [line.partition("#")[0] for line in next_steps().splitlines()[1:]]
    assert len(commands) == 2
    for line in commands:
        _, *words = shlex.split(line)
        assert words[0] == "run"
        run = main.get_command(None, "run")  # type: ignore[arg-type]
        assert run is not None
        options = {option for parameter in run.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
