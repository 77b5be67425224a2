"""What a person gets to know at the end of a flash: how to see it, how fast it is and what limits it."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from jetson.connection import Board
from jetson.steps import engines, smoke
from jetson.steps.step import Job
from stages.errors import printable

_LOG_LINES = 400
_PREVIEW = "preview: "
NO_PAGE = "this edge serves no page; with preview = 8080 under [sinks] of edge.toml it does"


def tell(job: Job, console: Console) -> None:
    """Engines, speed, and where the page is."""
    console.print()
    console.print(_engine_table(job))
    console.print(f"smoke test: {smoke.result_of(job)}")
    for line in page_lines(job.board) if job.edge.serves_page else [NO_PAGE]:
        console.print(line)


def page_lines(board: Board) -> list[str]:
    """How to open the service's page from this machine."""
    lines = board.script("service.sh", "logs", str(_LOG_LINES)).out.splitlines()
    told = [printable(line.partition(_PREVIEW)[2].strip()) for line in lines if line.startswith(_PREVIEW)]
    if not told:
        return [f"the service has told no page yet; see `pedsam board logs {board.address}`"]
    if not (local := re.match(r"https?://127\.0\.0\.1:(\d+)/", told[-1])):
        return [f"open {told[-1]}"]
    return [f"ssh -N -L {local[1]}:127.0.0.1:{local[1]} {board.address}", f"open {told[-1]}"]


def _engine_table(job: Job) -> Table:
    table = Table()
    for heading in ("engine", "precision", "build", "file", "weights", "activations", "builder's peak"):
        table.add_column(heading)
    for row in engines.rows(engines.report_of(job)):
        table.add_row(*row)
    return table
