"""What a running site looks at now and then: refusals to tell of, and how long its certificate is good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone

from server.keys import warn_of_end
from server.state import SiteState

DAY = timedelta(days=1)


class CertificateWatch:
    """Once a day, has the log told of a certificate that ends soon; `looked` is when that was done last."""

    def __init__(self, state: SiteState, looked: datetime) -> None:
        self._state = state
        self._looked = looked

    def look(self, now: datetime) -> None:
        if self._state.keys and now - self._looked >= DAY:
            self._looked = now
            warn_of_end(self._state.keys, now)


@contextlib.asynccontextmanager
async def housekeeping(state: SiteState, every_s: float | None = None) -> AsyncIterator[None]:
    """Looks while the block runs; at its end the log is told of every refusal it was not told of yet."""
    watch = CertificateWatch(state, datetime.now(timezone.utc))  # loading the keys has looked
    task = asyncio.create_task(_look(state, watch, every_s or state.refusals.every_s), name="housekeeping")
    try:
        yield
    finally:
        task.cancel()
        state.refusals.report_all()


async def _look(state: SiteState, watch: CertificateWatch, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        state.refusals.report()
        watch.look(datetime.now(timezone.utc))
