"""The command line around all commands: what is told when a library or the terminal lacks something."""

from __future__ import annotations

import errno
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

import pedsam
from pedsam.command import COMMANDS
from stages.errors import InputError
from stages.options import PathType
from stages.problems import EXTRAS
from tests.support.processes import MODULE
from tests.test_isolation import PYPROJECT

ROOT = Path(__file__).parent.parent


def said_of(error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the program says when a command meets this error."""

    @click.command()
    def failing() -> None:
        raise error

    class Module:
        command = failing

    monkeypatch.setitem(sys.modules, "failing", Module)
    monkeypatch.setitem(COMMANDS, "serve", ("failing", "x"))
    result = CliRunner().invoke(pedsam.main, ["serve"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.output.splitlines()
    return line


LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"
CHANGED = "numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            'needs the package x, which is not here: pip install "pedsam[site]"',
        ),
        (ImportError(LIBGL), f'({LIBGL}): pip uninstall opencv-python, then pip install "pedsam[site]"'),
        (
            ImportError("numpy.core.multiarray\nfailed to import"),
            'multiarray failed to import): pip install "pedsam[site]" --force-reinstall',
        ),
        (OSError("libcudart.so.12: cannot open shared object file"), "has a library that cannot be loaded"),
        (ValueError(CHANGED), 'pip install "pedsam[site]" --force-reinstall'),
        (OSError(errno.EACCES, "Permission denied", "/x/y"), "Error: /x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_what_is_missing_or_refused_is_a_sentence(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in said_of(error, monkeypatch)


@pytest.mark.parametrize("error", [InputError, lambda text: OSError(errno.ENOENT, "gone", text)])
def test_a_name_cannot_steer_the_terminal(
    error: Callable[[str], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "x?[31m?y" in said_of(error("x\x1b[31m\ny"), monkeypatch)


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        said_of(ValueError("a bug"), monkeypatch)


def test_every_extra_that_is_named_is_one() -> None:
    known = PYPROJECT["project"]["optional-dependencies"]
    for name in COMMANDS:
        extras = Requirement(f"pedsam[{EXTRAS.get(name, 'edge')}]").extras
        assert extras <= known.keys()


def test_any_name_is_printed_though_the_terminal_takes_only_ascii(tmp_path: Path) -> None:
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    out = tmp_path / os.fsdecode(b"caf\xe9 \xc2\xb0C")
    line = [
        *MODULE,
        "keys",
        "--out",
        str(out),
        "--site",
        "a=https://pedsam_site:1",
    ]
    variables |= {**os.environ, "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(line, capture_output=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pedsam_site:1" in done.stdout
    assert (out / "sites.toml").is_file()
    gone = [*MODULE, "run", "--source", str(out / "gone.jpg"), "--point", "1,1"]
    done = subprocess.run(gone, capture_output=True, env=variables, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: source ")
    assert done.stderr.count(b"\n") == 1


def test_a_table_is_printed_where_only_ascii_is() -> None:
    show = "rich.print('20 °C', '\\udce9')"
    code = f"import pedsam, rich; pedsam.main(['--version'], standalone_mode=False); {show}"
    variables = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"20 \\xb0C \\udce9\n")


def test_a_stream_that_cannot_be_changed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        pedsam.main(["--version"])
    assert ended.value.code == 0


def test_every_command_refuses_empty_paths() -> None:
    for name, (module, _) in COMMANDS.items():
        for option in importlib.import_module(module).command.params:
            if isinstance(option.type, click.Path):
                assert isinstance(option.type, PathType), f"{name} {option.name}"


def test_several_pictures_are_a_folder() -> None:
    result = CliRunner().invoke(pedsam.main, ["run", "--source", "a.jpg", "b.jpg", "--point", "1,1"])
    assert result.exit_code == 2
    assert "extra argument (b.jpg); --source takes one: give the folder of several pictures" in result.output
