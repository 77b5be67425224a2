"""How far a build is: a bar on a terminal, else plain lines that a program at the other end can show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 5.0


class ProgressLines:
    """Says "global: building, 40 %" at once and then at most every LINE_EVERY_S seconds, and not twice."""

    def __init__(
        self, stage: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stage = stage
        self._say = say
        self._clock = clock
        self._next = float("-inf")
        self._last = ""

    def __call__(self, fraction: float) -> None:
        if self._clock() < self._next:
            return
        line = f"{self._stage}: building, {int(fraction * 100)} %"
        if line != self._last:
            self._say(line)
            self._last, self._next = line, self._clock() + LINE_EVERY_S


@contextmanager
def shown_progress(console: Console, stage: str) -> Iterator[Callable[[float], None]]:
    """What takes the fraction done and shows it while the block runs."""
    if not console.is_terminal:
        yield ProgressLines(stage, console.print)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"building {stage}", total=1.0)
        yield lambda done: bar.update(task, completed=done)
