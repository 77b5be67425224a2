"""Counts what a site refuses by reason, and logs it at a bounded rate: a flood of it cannot fill a disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from server.logs import facts
from stages.repeats import EVERY_S, Repeats

log = logging.getLogger("pedsam.site")


class Refusals:
    """Refusals since the start, by reason: a fixed word, nothing of a request.

    The first of a reason is logged at once, later ones at most once in `every_s`, with their number.
    """

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.every_s = every_s
        self._counts: Counter[str] = Counter()
        self._repeats = Repeats(every_s, clock)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def refused(self, reason: str, number: int = 1) -> None:
        self._counts[reason] += number
        self._repeats.add(reason, number)
        if self._repeats.is_due(reason):
            self._report(reason)

    def report(self) -> None:
        """Log what was held back and is due; to be called periodically."""
        for reason in filter(self._repeats.is_due, self._repeats.untold()):
            self._report(reason)

    def report_all(self) -> None:
        """Log everything held back, at shutdown."""
        for reason in self._repeats.untold():
            self._report(reason)

    def _report(self, reason: str) -> None:
        count = self._repeats.take(reason)
        log.warning(
            "refused %d, reason %s", count, reason, extra=facts("refused", reason=reason, count=count)
        )
