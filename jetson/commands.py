"""What `pedsam board` does besides checking: look at the service, steer it, go back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from jetson.connection import Board, BoardError
from jetson.steps import desktop, power
from jetson.steps.service import HEALTHY_S, service_status
from jetson.steps.step import BEFORE, board_versions, read_json, required, write_json
from jetson.tell import page_lines
from stages.errors import InputError, printable
from stages.tegrastats import Tegrastats, parse_tegrastats

_ROLLBACK = "rollback"


def status(board: Board, console: Console) -> None:
    """Which version runs, how it is, and how the board is."""
    found = service_status(board)
    if "version" not in found:
        console.print(f"no version runs on {board.address}; `pedsam flash` installs one")
        return
    for name, value in found.items():
        console.print(f"{name:10} {printable(value)}")
    line = board.run("timeout 3 tegrastats --interval 500 2> /dev/null | head -n 1").out.strip()
    with contextlib.suppress(InputError):  # a board without tegrastats
        console.print(f"{'board':10} {_in_short(parse_tegrastats(line))}")
    for line in page_lines(board):
        console.print(line)


def _in_short(reading: Tegrastats) -> str:
    """Load, memory, warmth and watts, as far as tegrastats tells them."""
    parts = [f"{reading.ram_used_mb} of {reading.ram_total_mb} MB of memory used"]
    if reading.gpu.percent is not None:
        parts.append(f"GPU {reading.gpu.percent} %")
    if reading.hottest is not None:
        parts.append(f"{reading.hottest[1]:.0f} °C")
    if reading.power_mw is not None:
        parts.append(f"{reading.power_mw / 1e3:.1f} W")
    return ", ".join(parts)


def logs(board: Board, console: Console, lines: int) -> None:
    """The last lines of the service."""
    require_version(board)
    said = required(board, "service.sh", "logs", str(lines), what="there are no logs").out
    for line in said.splitlines():
        console.print(printable(line))


def stop(board: Board, console: Console) -> None:
    """Until the board starts again, or `start`."""
    require_version(board)
    required(board, "service.sh", "stop", what="the service cannot be stopped")
    console.print(f"stopped; it starts with {board.address}, or by `pedsam board start`")


def start(board: Board, console: Console) -> None:
    """Also one that runs, anew."""
    require_version(board)
    required(board, "service.sh", "start", what="the service cannot be started")
    console.print("started")


def require_version(board: Board) -> str:
    """The version whose service is installed. Raises BoardError where none is."""
    current = board_versions(board).get("current")
    if current is None:
        raise BoardError(f"nothing was flashed to {board.address} yet; use `pedsam flash`")
    return current


def rollback(board: Board, console: Console, *, reboot: bool = False) -> None:
    """Undo a flash that was not completed; else go back to the version before the one that runs.

    `reboot` allows one where the power mode of before needs it. Repeated after a failure it goes on from
    there.
    """
    with board.locked():
        versions = board_versions(board)
        current, previous = versions.get("current"), versions.get("previous")
        begun = read_json(board, _ROLLBACK)
        if begun.keys() >= {"from", "to", "now"}:
            _go_back(board, console, begun, current, reboot)
        elif (pending := versions.get("pending")) and pending != current:
            _discard(board, console, pending, current, reboot)
        elif current is None:
            raise BoardError(f"nothing was flashed to {board.address} yet, so there is nothing to go back to")
        elif previous is None:
            _remove(board, console, current, reboot)
        else:
            begun = {"from": current, "to": previous, "now": _state_now(board, _before(board, current))}
            write_json(board, _ROLLBACK, begun)
            _go_back(board, console, begun, current, reboot)


def _remove(board: Board, console: Console, current: str, reboot: bool) -> None:
    _restore(board, console, current, reboot)
    required(board, "service.sh", "remove", what="the service cannot be removed")
    console.print(f"version {current} was the first one: its service is removed")


def _discard(board: Board, console: Console, pending: str, current: str | None, reboot: bool) -> None:
    _restore(board, console, pending, reboot)
    required(board, "versions.sh", "discard", pending, what="the version cannot be removed")
    rest = f"version {current} is the board's" if current else "the board has none"
    console.print(f"the flash of version {pending}, which was not completed, is undone; {rest}")


def _go_back(
    board: Board, console: Console, begun: Mapping[str, Any], current: str | None, reboot: bool
) -> None:
    """From one version to the one before; how the board was becomes what a rollback from there returns to."""
    new, old = str(begun["from"]), str(begun["to"])
    _restore(board, console, new, reboot)
    if current != old:
        required(board, "service.sh", "switch", old, str(HEALTHY_S), what=f"version {old} does not run")
    write_json(board, f"versions/{old}/{BEFORE}", begun["now"])
    required(board, "versions.sh", "forget", _ROLLBACK, what="~/pedsam cannot be written")
    console.print(f"version {old} runs again; another rollback would return to {new}")


def _state_now(board: Board, before: Mapping[str, str]) -> dict[str, str]:
    """What of the board a return to `before` will change."""
    now: dict[str, str] = {}
    if before.keys() & {power.MODE_BEFORE, power.CLOCKS_BEFORE}:
        now |= power.worth_remembering(power.read_power(board))
    if desktop.BEFORE_TARGET in before:
        now |= desktop.worth_remembering(board)
    return now


def _restore(board: Board, console: Console, version: str, reboot: bool) -> None:
    """Power, clocks and desktop as they were before a version was flashed."""
    before = _before(board, version)
    for said in (power.restore(board, before, reboot=reboot), desktop.restore(board, before)):
        if said:
            console.print(said)


def _before(board: Board, version: str) -> dict[str, str]:
    return read_json(board, f"versions/{version}/{BEFORE}")
