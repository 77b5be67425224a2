"""Every option of every command with values that it cannot mean: a sentence each time, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pedsam.command import COMMANDS, main

# What each command gets besides, so that it ends before it starts any work: a bundle or picture that is not
# there. `flash` and `board` would look for their board: those get an address that is none.
NEEDED = {
    "export": ("--checkpoint", "nothing", "--out", "out"),
    "train": ("--model", "mini", "--data", "nothing", "--out", "out.safetensors"),
    "distill": ("--checkpoint", "nothing", "--images", "nothing", "--out", "out.safetensors"),
    "build": ("--bundle", "nothing"),
    "keys": ("--out", "out", "--site", "a=nothing"),
    "serve": ("--bundle", "nothing", "--keys", "nothing"),
    "check": ("--sites", "nothing"),
    "bench": ("--bundle", "nothing"),
    "plan": ("--sites", "nothing"),
    "run": ("--source", "nothing", "--point", "1,1"),
    "flash": ("a b",),
    "board": ("a b",),
    "evaluate": ("--data", "nothing", "--out", "out"),
    "audit": ("--data", "nothing", "--out", "out"),
    "demo": ("--bundle", "nothing", "--out", "out"),
}
ODD = (
    "nan",
    "inf",
    "-inf",
    "",
    "-1",
    "0",
    "1e400",
    "9" * 5000,
    "folder",
    "file",
    "nothing/here",
    "\udce9",
    " ",
    "x" * 300,
)


def leaves(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*words, name))
    else:
        yield words, command


def is_number(line: tuple[str, ...]) -> bool:
    """Whether the option of a line of `lines` takes a number, always: what may be left out, and begins with a
    dash, is an option of its own."""
    command = main.get_command(click.Context(main), line[0])
    assert command is not None
    types = dict(leaves(command, (line[0],)))[line[:-1]].params
    (option,) = (option for option in types if line[-1] in option.opts)
    needed = not getattr(option, "_flag_needs_value", False)
    return needed and isinstance(option.type, (click.types.FloatParamType, click.types.IntParamType))


def lines() -> Iterator[tuple[str, ...]]:
    """The words of each command, and an option of it."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for words, leaf in leaves(command, (name,)):
            for option in leaf.params:
                if isinstance(option, click.Option) and not option.is_flag:
                    yield (*words, option.opts[0])


@pytest.mark.parametrize("line", list(lines()), ids=" ".join)
def test_an_odd_value_is_a_sentence(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("\ufeff{")
    *words, option = line
    for value in ODD:
        result = CliRunner().invoke(main, [*words, *NEEDED[words[0]], option, value])
        said = f"{option} {value[:20]!r}: {result.output[-300:]!r} {result.exception!r}"
        assert isinstance(result.exception, SystemExit), said
        assert result.exit_code in (1, 2), said
        assert "Traceback" not in result.output, said
        if value in ("nan", "-inf") and is_number(line):
            assert f"Invalid value for '{option}'" in result.output, said
        assert len(result.output.splitlines()[-1].replace(value or " ", "")) < 400, said
