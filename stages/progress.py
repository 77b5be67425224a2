"""How far long work is: a bar on a terminal, else plain lines that a program at the other end can show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 5.0


class ProgressLines:
    """Says "global: building, 40 %" at once and then at most every LINE_EVERY_S seconds, and not twice.

    `what` is global, `doing` is building.
    """

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        doing: str = "building",
    ) -> None:
        self._begin = f"{what}: {doing}"
        self._say = say
        self._clock = clock
        self._next = float("-inf")
        self._last = ""

    def __call__(self, fraction: float) -> None:
        if self._clock() < self._next:
            return
        line = f"{self._begin}, {int(fraction * 100)} %"
        if line != self._last:
            self._say(line)
            self._last, self._next = line, self._clock() + LINE_EVERY_S


@contextmanager
def shown_progress(console: Console, what: str, doing: str = "building") -> Iterator[Callable[[float], None]]:
    """What takes the fraction done and shows it while the block runs."""
    if not console.is_terminal:
        yield ProgressLines(what, console.print, doing=doing)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{doing} {what}", total=1.0)
        yield lambda done: bar.update(task, completed=done)
