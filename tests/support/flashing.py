"""Flashing pretended boards: OpenSSH, the sites and `pedsam run` are real, the board's programs are those of
tests/support/board_programs."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from jetson import commands
from jetson.connection import Board
from jetson.flash import flash
from jetson.steps.power import read_power
from jetson.steps.step import FlashOptions
from stages.bundle import shipped_bundle
from stages.console import make_console
from tests.support import power_boards
from tests.support.boards import FakeBoard
from tests.support.sshd import sshd

EDGE = """
[source]
source = "csi://0"
[loop]
backend = "onnxruntime-cpu"
threads = 1
[sinks]
preview = 8080
"""


POWER = {
    "orin-nano": power_boards.NANO_PLAIN,
    "orin-nx": power_boards.NX_SUPER,
    "agx-orin": power_boards.AGX,
}


@dataclass
class Flashing:
    """A board that can be flashed: `ssh_config` leads to it, `options` are those of a flash."""

    board: FakeBoard
    ssh_config: Path
    options: dict[str, Any]
    said: list[str] = field(default_factory=list)

    def flash(self, *, dry_run: bool = False, confirm: bool = False, **changes: Any) -> str:
        """What `pedsam flash` says on the terminal; raises what it raises."""
        options = FlashOptions(address="board", ssh_config=self.ssh_config, **self.options | changes)
        with self._console() as console:
            flash(options, console, dry_run=dry_run, confirm=lambda question: confirm)
        return self.said[-1]

    def rollback(self, *, reboot: bool = False) -> str:
        with self._console() as console, Board("board", self.ssh_config) as board:
            commands.rollback(board, console, reboot=reboot)
        return self.said[-1]

    @contextmanager
    def _console(self) -> Iterator[Console]:
        text = io.StringIO()
        try:
            yield make_console(file=text, width=200)
        finally:
            self.said.append(text.getvalue())

    @property
    def current(self) -> str | None:
        """The version whose service is installed."""
        link = self.board.home / "pedsam/current"
        return link.readlink().name if link.is_symlink() else None

    @property
    def versions(self) -> set[str]:
        return {path.name for path in (self.board.home / "pedsam/versions").glob("*")}

    @property
    def running(self) -> str | None:
        """The version whose container runs and is healthy: its ID."""
        with Board("board", self.ssh_config) as board:
            found = board.script("service.sh", "status").out
        words = dict(line.partition(" ")[::2] for line in found.splitlines())
        return words.get("version") if words.get("health") == "healthy" else None

    def wait_until_healthy(self) -> bool:
        """Whether the service becomes healthy within some seconds."""
        for _ in range(200):
            if self.running:
                return True
            time.sleep(0.1)
        return False

    @property
    def power(self) -> str:
        """The power mode by its name, and "pinned" where its clocks are."""
        with Board("board", self.ssh_config) as board:
            state = read_power(board)
        return state.mode_name + (" pinned" if state.clocks.pinned else "")

    def cut(self, when: str, words: str) -> None:
        """Cut the connection "before" or "after" the next script that holds these words, once."""
        (self.board.folder / "cut").write_text(f"{when} {words}\n")

    def trouble(self, name: str, there: bool = True) -> None:
        """A trouble of the program `containers`, until it is taken away."""
        path = self.board.folder / "troubles" / name
        path.parent.mkdir(exist_ok=True)
        path.touch() if there else path.unlink()

    def end(self) -> None:
        """Stop what runs on the board."""
        with Board("board", self.ssh_config) as board:
            board.script("service.sh", "remove")


@contextmanager
def flashing(folder: Path, name: str, sites: Path, canned: Path) -> Iterator[Flashing]:
    """A board of BOARDS that was never flashed. `canned` is what a smoke test writes on it."""
    board = FakeBoard(folder / "board", name)
    (board.folder / "canned").symlink_to(canned)
    (board.folder / "etc/systemd/system").mkdir(parents=True)
    power_boards.lay_power(board, POWER.get(name, power_boards.NANO_SUPER))
    board.connection().run("nvpmodel --at-boot")
    power_boards.drop_connections(board)
    image = folder / "image.tar"
    image.write_bytes(b"an image")
    config = folder / "edge.toml"
    config.write_text(EDGE)
    options = {"bundle": shipped_bundle(), "sites": sites, "config": config, "image": str(image)}
    with sshd(board.folder) as ssh_config:
        made = Flashing(board, ssh_config, options)
        try:
            yield made
        finally:
            made.end()
