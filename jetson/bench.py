"""`pedsam bench` on a flashed board, in the container of the version that is its service.

The board itself stops the service before and starts it again after, so that it runs whatever becomes of this
machine and the connection; Ctrl-C here ends the measurement there.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from jetson.commands import require_version
from jetson.connection import Board, BoardError, ConnectionLost, Ran
from jetson.steps.step import required
from jetson.versions import INSIDE
from stages.errors import PedsamError
from stages.files import check_folder, check_replaceable, refuse_file, replace_file, writing

RESULTS = ("bench.json", "bench.png")
END_S = 90.0  # for a measurement to end and the service to be started
_FOLDER = "state/bench"
_NOT_STARTED = 5  # a status of service.sh
_TOO_OLD = ("unknown command bench", "No such command 'bench'")


def bench(
    board: Board, console: Console, out: Path | None, *, runs: int | None, seconds: float | None
) -> None:
    """Measure the board; what it says goes to `console`, its files to `out`.

    Raises InputError when `out` cannot be written, before anything is stopped, and BoardError.
    """
    _check_out(out)
    with board.locked():
        version = require_version(board)
        with console.status(f"measuring {board.address}"):
            ran = _run(board, console, version, _arguments({"runs": runs, "seconds": seconds}))
        if ran.status:
            _fail(board, ran)
        if out is not None:
            _fetch(board, out)
            console.print(Text(f"{out / RESULTS[0]} and {out / RESULTS[1]} hold this here"))


def _arguments(given: Mapping[str, float | None]) -> list[str]:
    words = [
        *("--config", f"{INSIDE}/config/edge.toml", "--bundle", f"{INSIDE}/bundle"),
        *("--sites", f"{INSIDE}/config/sites.toml", "--out", f"{INSIDE}/{_FOLDER}"),
    ]
    pairs = ((f"--{name}", str(value)) for name, value in given.items() if value is not None)
    return [*words, *itertools.chain.from_iterable(pairs)]


def _run(board: Board, console: Console, version: str, arguments: list[str]) -> Ran:
    """Until the service is started again, where it ran; an interruption ends it early."""
    try:
        return board.script(
            "service.sh", "bench", version, *arguments, on_line=lambda line: console.print(Text(line))
        )
    except ConnectionLost as exc:
        raise ConnectionLost(f"{exc}; the board starts its service again when it has measured") from exc
    except BaseException:
        with contextlib.suppress(PedsamError):
            board.script("service.sh", "end-bench", timeout_s=END_S)
        raise


def _fail(board: Board, ran: Ran) -> NoReturn:
    if ran.status == _NOT_STARTED:
        raise BoardError(
            f"the service of {board.address} is stopped, and cannot be started again ({ran.last_line}); see "
            f"`pedsam board logs {board.address}`, then `pedsam board start {board.address}`",
            ran.out + ran.err,
        )
    if any(words in ran.out + ran.err for words in _TOO_OLD):
        raise BoardError(
            f"the version on {board.address} was flashed by a pedsam that had no bench; `pedsam board update "
            f"{board.address}` brings it up to date"
        )
    said = ran.last_line.removeprefix("Error: ")
    raise BoardError(f"{board.address} cannot be measured: {said}", ran.out + ran.err)


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    refuse_file(out)
    with writing(out):
        check_folder(out)
    for name in RESULTS if out.exists() else ():
        with writing(out / name):
            check_replaceable(out / name)


def _fetch(board: Board, out: Path) -> None:
    """Bring the results here."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        told = required(
            board, "versions.sh", "encoded", f"{_FOLDER}/{name}", what=f"{name} cannot be read"
        ).out
        try:
            data = base64.b64decode(told)
        except ValueError as exc:
            raise BoardError(f"{name} of {board.address} arrived damaged; measure again") from exc
        with writing(out / name):
            replace_file(out / name, data)
