"""Pretended boards, each behind an OpenSSH server of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetson.connection import Board
from jetson.steps.smoke import BOX, PICTURE
from tests.support.flashing import Flashing, flashing
from tests.support.processes import MODULE, serving
from tests.support.sshd import sshd


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a flash keeps on this machine goes to a folder of the test, here and in processes it starts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def empty_board(tmp_path: Path) -> Iterator[Path]:
    """A server that sees an empty folder as its board: its OpenSSH configuration."""
    (tmp_path / "board/home").mkdir(parents=True)
    with sshd(tmp_path / "board") as config:
        yield config


@pytest.fixture
def connected(empty_board: Path) -> Iterator[Board]:
    with Board("board", empty_board) as board:
        yield board


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """sites.toml of three sites on loopback that run."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(serving(None)).url for _ in range(3)]
        path = tmp_path_factory.mktemp("sites") / "sites.toml"
        tables = [
            f'[[site]]\nname = "{name}"\noperator = "{name}"\nurl = "{url}"\n'
            for name, url in zip("abc", urls, strict=True)
        ]
        path.write_text("\n".join(tables))
        yield path


@pytest.fixture(scope="session")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the smoke test writes, made once by this machine without sites."""
    out = tmp_path_factory.mktemp("canned") / "out"
    line = [*MODULE, "run", "--source", str(PICTURE), "--box", BOX, "--threads", "1", "--out", str(out)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture
def board_named(tmp_path: Path, sites: Path, canned: Path) -> Iterator[Callable[[str], Flashing]]:
    """Makes a board of BOARDS, never flashed."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(flashing(tmp_path, name, sites, canned))


@pytest.fixture
def board(board_named: Callable[[str], Flashing]) -> Flashing:
    """An Orin Nano Super on JetPack 6.2, never flashed."""
    return board_named("orin-nano-super")
