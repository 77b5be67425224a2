"""What signals do to a command, from its first moment on: in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A command; each of {first}, {importing} and {working} is a statement.
COMMAND = """
import os, signal, sys
{first}
sys.argv = ["pedsam", {name!r}]
import pedsam
import click
@click.command({name!r})
def command():
    {working}
    print("done")
def get_command(ctx, name):
    {importing}
    return command
pedsam.main.get_command = get_command
pedsam.main()
"""
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def run(
    name: str, *, first: str = "pass", importing: str = "pass", working: str = "pass"
) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = COMMAND.format(name=name, first=first, importing=importing, working=working)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def killing(number: signal.Signals) -> str:
    return f"os.kill(os.getpid(), {int(number)})"


@pytest.mark.parametrize("name", ["run", "train"])
@pytest.mark.parametrize("number", STOPS)
def test_while_a_command_is_imported_it_ends_as_if_it_was_killed(number: signal.Signals, name: str) -> None:
    assert run(name, importing=killing(number)) == (128 + number, "", "")


@pytest.mark.parametrize("number", STOPS)
def test_most_commands_are_interrupted(number: signal.Signals) -> None:
    """So that they close what they have open, as at Ctrl-C."""
    assert run("train", working=killing(number)) == (1, "", "\nAborted!\n")


def test_a_signal_that_nohup_ignores_stays_so() -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert run("train", first=ignored, working=killing(signal.SIGHUP)) == (0, "done\n", "")


def test_a_program_that_imports_pedsam_keeps_its_own_handlers() -> None:
    code = "import signal, pedsam; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_threads_that_nobody_waits_for_do_not_keep_a_run_from_ending() -> None:
    waiting = "import threading; threading.Thread(target=threading.Event().wait).start()"
    assert run("run", working=waiting) == (0, "done\n", "")
