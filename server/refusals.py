"""Counts what a site refuses and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Refusals:
    """Refusals since the start, by a reason that is a fixed word of this code, never a sender's."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def refused(self, reason: str) -> None:
        self._counts[reason] += 1
