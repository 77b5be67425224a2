"""Names and lists of them in sentences for a person, fit for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from stages.errors import printable

NAMED = 3  # of many
MAX_NAME = 160  # characters


def shown(name: object) -> str:
    """A name from data: no control characters, at most MAX_NAME characters."""
    text = printable(name)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."


def some_of(names: Iterable[object], total: int | None = None) -> str:
    """The first names of a list and how many more there are. `total` counts them all where `names` has only
    the first ones."""
    given = list(names)
    more = (len(given) if total is None else total) - NAMED
    return ", ".join(map(shown, given[:NAMED])) + (f" and {more} more" if more > 0 else "")


def in_order(names: Iterable[str]) -> str:
    """All of a few names, sorted."""
    return ", ".join(sorted(names))
