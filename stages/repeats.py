"""How often to tell what repeats: the first of a reason at once, later ones now and then, counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

EVERY_S = 60.0
OTHERS = ""  # the reason of what comes while `most` reasons are in use


class Repeats:
    """Counts by reason what was not told yet. A reason that was told is due again after `every_s`.

    At most `most` reasons are told within `every_s`; what comes of others then counts as OTHERS.
    """

    def __init__(
        self,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        most: int | None = None,
    ) -> None:
        self._every_s = every_s
        self._clock = clock
        self._most = most
        self._untold: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    def add(self, reason: str, number: int = 1) -> str:
        """Count it; the reason that it counts for."""
        if self._most is not None and reason not in self._told_at:
            self._forget_old()
            reason = reason if len(self._told_at) < self._most else OTHERS
        self._untold[reason] += number
        return reason

    def is_due(self, reason: str) -> bool:
        told_at = self._told_at.get(reason)
        return told_at is None or self._clock() - told_at >= self._every_s

    def untold(self) -> list[str]:
        """Reasons of what was not told yet, those that are not due among them."""
        return list(self._untold)

    def take(self, reason: str) -> int:
        """How often it happened since it was told; now it is told."""
        self._told_at[reason] = self._clock()
        return self.forget(reason)

    def forget(self, reason: str) -> int:
        """How often it happened since it was told; it need not be told any more."""
        return self._untold.pop(reason, 0)

    def _forget_old(self) -> None:
        self._told_at = {
            reason: at
            for reason, at in self._told_at.items()
            if reason in self._untold or not self.is_due(reason)
        }
