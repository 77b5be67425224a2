"""`pedsam board`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from jetson import commands, last_options
from jetson.bench import bench
from jetson.board.checks import check
from jetson.board.facts import look
from jetson.board.findings import Wanted, refused, table
from jetson.connection import Board, BoardError
from jetson.flash import flash
from jetson.flash_cli import BOARD, SSH_CONFIG, confirm
from stages.console import make_console
from stages.options import PATH, Count, Number


@click.group("board")
def command() -> None:
    """Look at a flashed board and steer its service."""


@command.command("check", params=[BOARD, SSH_CONFIG])
@click.option("--source", multiple=True, help="A camera that has to be there, as csi://0; repeatable.")
@click.option("--no-root", is_flag=True, help="For a flash with --no-root.")
def _check(board: str, ssh_config: Path | None, source: tuple[str, ...], no_root: bool) -> None:
    """The checks of `flash` alone, as a table; changes nothing."""
    console = make_console()
    wanted = Wanted(address=board, sources=source, no_root=no_root)
    with Board(board, ssh_config) as opened:
        found = check(look(opened), wanted)
    console.print(table(found))
    if refused(found):
        raise BoardError(f"{board} is not fit to be flashed: see what is refused")
    console.print("the board is fit to be flashed")


@command.command("status", params=[BOARD, SSH_CONFIG])
def _status(board: str, ssh_config: Path | None) -> None:
    """What runs, and how it is."""
    with Board(board, ssh_config) as opened:
        commands.status(opened, make_console())


@command.command("logs", params=[BOARD, SSH_CONFIG])
@click.option("--lines", type=Count(1), default=100, show_default=True)
def _logs(board: str, ssh_config: Path | None, lines: int) -> None:
    """The last lines of the service."""
    with Board(board, ssh_config) as opened:
        commands.logs(opened, make_console(), lines)


@command.command("stop", params=[BOARD, SSH_CONFIG])
def _stop(board: str, ssh_config: Path | None) -> None:
    """Stop the service, until the board or `start` starts it."""
    with Board(board, ssh_config) as opened:
        commands.stop(opened, make_console())


@command.command("start", params=[BOARD, SSH_CONFIG])
def _start(board: str, ssh_config: Path | None) -> None:
    """Start the service again."""
    with Board(board, ssh_config) as opened:
        commands.start(opened, make_console())


@command.command("bench", params=[BOARD, SSH_CONFIG])
@click.option("--runs", type=Count(1), help="Frames of each way, at most.")
@click.option("--seconds", type=Number(0, 3600, min_open=True), help="Of each way, about.")
@click.option("--out", type=PATH, help="Directory of this machine for bench.json and bench.png.")
def _bench(
    board: str, ssh_config: Path | None, runs: int | None, seconds: float | None, out: Path | None
) -> None:
    """How fast the board is: `pedsam bench` in its container, with its engines and through its sites.

    The service is stopped meanwhile and started again, whatever happens.
    """
    with Board(board, ssh_config) as opened:
        bench(opened, make_console(), out, runs=runs, seconds=seconds)


@command.command("update", params=[BOARD, SSH_CONFIG])
@click.option("--dry-run", is_flag=True, help="Look, say what would be done, change nothing.")
def _update(board: str, ssh_config: Path | None, dry_run: bool) -> None:
    """Flash with the options that this machine gave last time, from the same files."""
    options = last_options.load(board)
    if ssh_config is not None:
        options = replace(options, ssh_config=ssh_config)
    flash(options, make_console(), dry_run=dry_run, confirm=confirm)


@command.command("rollback", params=[BOARD, SSH_CONFIG])
@click.option("--reboot", is_flag=True, help="Reboot the board where the power mode of before needs it.")
def _rollback(board: str, ssh_config: Path | None, reboot: bool) -> None:
    """Go back to the version before, with its image, bundle, engines, unit, power mode and clocks.

    A flash that was not completed is undone. Another rollback returns.
    """
    with Board(board, ssh_config) as opened:
        commands.rollback(opened, make_console(), reboot=reboot)
