"""Counts what a site refuses and why, and tells the log so that a flood of it cannot fill a disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from server.logs import facts

log = logging.getLogger("pedsam.site")

EVERY_S = 60.0


class Refusals:
    """Refusals since the start, by a reason that is a fixed word of this code, never a sender's.

    The first of a reason is logged at once, what follows at most once in `every_s` with its number.
    """

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.every_s = every_s
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def refused(self, reason: str, number: int = 1) -> None:
        self._counts[reason] += number
        self._untold[reason] += number
        if self._is_due(reason):
            self._tell(reason)

    def report(self) -> None:
        """Log what was held back and may be told now; call it now and then."""
        for reason in filter(self._is_due, list(self._untold)):
            self._tell(reason)

    def report_all(self) -> None:
        """Log everything held back: the site stops."""
        for reason in list(self._untold):
            self._tell(reason)

    def _is_due(self, reason: str) -> bool:
        told_at = self._told_at.get(reason)
        return told_at is None or self._clock() - told_at >= self.every_s

    def _tell(self, reason: str) -> None:
        count = self._untold.pop(reason)
        self._told_at[reason] = self._clock()
        log.warning(
            "refused %d, reason %s", count, reason, extra=facts("refused", reason=reason, count=count)
        )
