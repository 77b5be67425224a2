"""`pedsam board` and `pedsam flash` as commands, typed: a process each, against a pretended board."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.flashing import Flashing
from tests.support.processes import MODULE

pytestmark = pytest.mark.sshd

DOCKER = """#!/bin/sh
# docker of a workstation that holds one image
case "$1 $2" in
"image inspect") [ "$5" = my-image:1 ] && echo sha256:fedcba9876543210 ;;
"save sha256:fedcba9876543210") echo the layers ;;
*) echo "no such thing: $*" >&2; exit 1 ;;
esac
"""


def pedsam(board: Flashing, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command about the board; `path` is a folder of programs that come first."""
    line = [*MODULE, *words, "board", "--ssh-config", str(board.ssh_config)]
    environment = {**os.environ, "COLUMNS": "200"}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
    )


def flash(board: Flashing, *more: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    options = [f"--{name}={value}" for name, value in board.options.items() if f"--{name}" not in more]
    return pedsam(board, "flash", *options, *more, path=path)


def test_a_board_is_looked_after(board: Flashing) -> None:
    done = pedsam(board, "board", "status")
    assert "no version runs on board; `pedsam flash` installs one" in done.stdout
    done = flash(board)
    assert done.returncode == 0, done.stderr
    assert "open http://127.0.0.1:8080/#token" in done.stdout

    said = pedsam(board, "board", "status").stdout
    assert f"version    {board.current}\n" in said
    assert "health     healthy\n" in said
    assert "board      1488 of 7620 MB of memory used, GPU 0 %, 50 °C, 4.7 W\n" in said
    assert "open http://127.0.0.1:8080/#token" in said
    assert "preview: http" in pedsam(board, "board", "logs").stdout
    assert pedsam(board, "board", "stop").returncode == 0
    assert board.running is None
    assert pedsam(board, "board", "start").returncode == 0
    assert board.wait_until_healthy()

    board.options["config"].write_text(board.options["config"].read_text() + "metrics_port = 9100\n")
    first = board.current
    done = pedsam(board, "board", "update")
    assert done.returncode == 0, done.stderr
    assert board.running == board.current != first
    assert pedsam(board, "board", "rollback").returncode == 0
    assert board.running == first


def test_check_says_whether_a_board_is_fit_and_changes_nothing(board: Flashing) -> None:
    before = sorted(board.board.home.rglob("*"))
    done = pedsam(board, "board", "check", "--source", "csi://0")
    assert done.returncode == 0, done.stderr
    assert "Jetson Orin Nano 8GB Super" not in done.stderr
    assert "Orin Nano 8GB Super" in done.stdout
    assert done.stdout.rstrip().endswith("the board is fit to be flashed")
    done = pedsam(board, "board", "check", "--source", "/dev/video7")
    assert done.returncode == 1
    assert "the board has no /dev/video7" in done.stdout
    assert sorted(board.board.home.rglob("*")) == before


def test_an_image_of_this_machine_is_sent(board: Flashing, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    done = flash(board, "--image", "my-image:1", path=programs)
    assert done.returncode == 0, done.stderr
    assert "sent my-image:1 as pedsam-flashed:fedcba987654" in done.stdout
    (board.board.folder / "docker/images/other:1").write_text("sha256:0123456789abcdef")
    done = flash(board, "--image", "other:1", path=programs)
    assert "other:1 of the board is pedsam-flashed:0123456789ab" in done.stdout
    done = flash(board, "--image", "no-image:1", path=programs)
    assert "Error: image: image no-image:1 is neither a file nor an image of docker" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_update_needs_a_flash_by_this_machine(board: Flashing, tmp_path: Path) -> None:
    done = pedsam(board, "board", "update")
    assert done.returncode == 1
    assert done.stderr == "Error: this machine has not flashed board yet; use `pedsam flash`\n"
    for text in ("", "{", "[]", '{"board": 1}', '{"board": {"bundle": 1}}', '{"board": {"bundle": "b"}}'):
        (tmp_path / "state/pedsam").mkdir(parents=True, exist_ok=True)
        (tmp_path / "state/pedsam/flashed.json").write_text(text)
        assert "has not flashed board yet" in pedsam(board, "board", "update").stderr


@pytest.mark.parametrize("word", ["logs", "stop", "start", "bench"])
def test_what_a_board_that_was_never_flashed_says(board: Flashing, word: str) -> None:
    done = pedsam(board, "board", word)
    assert done.returncode == 1
    assert done.stderr == "Error: nothing was flashed to board yet; use `pedsam flash`\n"


def test_the_help_says_what_is_not_touched() -> None:
    done = subprocess.run([*MODULE, "flash", "--help"], capture_output=True, text=True, check=True)
    words = " ".join(done.stdout.split())
    assert "does not touch JetPack or its partitions" in words.partition("Options")[0]
