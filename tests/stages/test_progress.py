"""Progress as lines, for who has no terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from stages.progress import LINE_EVERY_S, ProgressLines, shown_progress


def test_lines_come_at_once_then_seldom_and_never_twice() -> None:
    now, said = [100.0], list[str]()
    lines = ProgressLines("global", said.append, lambda: now[0])
    for after, fraction in ((0, 0.0), (1, 0.2), (LINE_EVERY_S, 0.4049), (2, 0.6), (60, 0.4), (60, 1.0)):
        now[0] += after
        lines(fraction)
    assert said == ["global: building, 0 %", "global: building, 40 %", "global: building, 100 %"]


def test_what_is_done_is_named() -> None:
    console = Console(file=StringIO())
    with shown_progress(console, "projection", "fitting") as progress:
        progress(0.25)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "projection: fitting, 25 %\n"


def test_without_a_terminal_there_are_lines_and_no_bar() -> None:
    console = Console(file=StringIO())
    with shown_progress(console, "global") as progress:
        progress(0.5)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "global: building, 50 %\n"


def test_on_a_terminal_there_is_a_bar_and_no_line() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80)
    with shown_progress(console, "global") as progress:
        progress(0.5)
    assert isinstance(console.file, StringIO)
    assert "building global" in console.file.getvalue()
    assert "global: building" not in console.file.getvalue()
