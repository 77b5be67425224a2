"""What was read of the data, what of it is left out, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import click

from stages.words import NAMED, some_of

ANNOTATIONS, PICTURES, LABEL_MAPS = "annotations", "pictures", "label maps"


@dataclass
class _Reason:
    count: int = 0
    names: list[str] = field(default_factory=list)


class Tally:
    """Counts of what is left out, by kind and reason, with the first ones by name.

    A reason is a phrase that can follow a number: "31 with a box and no mask". `notes` are sentences about
    what is used, but not as it was found.
    """

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.notes: list[str] = []
        self._left_out: dict[str, dict[str, _Reason]] = {}

    def leave_out(self, kind: str, reason: str, name: str) -> None:
        """Count one of a kind; `name` may end with what was found instead."""
        found = self._left_out.setdefault(kind, {}).setdefault(reason, _Reason())
        found.count += 1
        if len(found.names) < NAMED:
            found.names.append(name)

    def note(self, sentence: str) -> None:
        """Tell it once, however often it is noted."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, other: Tally, kinds: Mapping[str, str], without: str) -> None:
        """Add what another has counted, its kinds renamed by `kinds`, but for the reason `without`."""
        for kind, reasons in other._left_out.items():
            kept = {reason: found for reason, found in reasons.items() if reason != without}
            if kept:
                self._left_out[kinds.get(kind, kind)] = kept
        for kind, count in other.read.items():
            self.read[kinds.get(kind, kind)] += count
        self.notes += other.notes

    def left_out(self) -> dict[str, dict[str, int]]:
        """Counts by kind and reason, as report.json has them."""
        return {
            kind: {reason: found.count for reason, found in reasons.items()}
            for kind, reasons in self._left_out.items()
        }

    def sentences(self) -> list[str]:
        """One sentence a kind of which something is left out, most frequent reasons first; then the notes."""
        return [self._sentence(kind) for kind in self._left_out] + self.notes

    def _sentence(self, kind: str) -> str:
        reasons = sorted(self._left_out[kind].items(), key=lambda item: -item[1].count)
        total = sum(found.count for _, found in reasons)
        each = [f"{found.count} {reason} ({some_of(found.names, found.count)})" for reason, found in reasons]
        are = "is" if total == 1 else "are"
        return f"of {self.read[kind]} {kind} {total} {are} left out: {', '.join(each)}"


def tell(sentences: Iterable[str]) -> None:
    """Print them, in the first process of several only."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in sentences:
            click.echo(sentence)
