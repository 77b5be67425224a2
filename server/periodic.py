"""Periodic work of a site: logging refusals that were held back, and that its certificate expires soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone

from server.keys import warn_of_expiry
from server.state import SiteState

DAY = timedelta(days=1)


class CertificateCheck:
    """Logs, once a day, that a certificate expires soon; `checked` is when that was checked last."""

    def __init__(self, state: SiteState, checked: datetime) -> None:
        self._state = state
        self._checked = checked

    def run(self, now: datetime) -> None:
        if self._state.keys and now - self._checked >= DAY:
            self._checked = now
            warn_of_expiry(self._state.keys, now)


@contextlib.asynccontextmanager
async def periodic_checks(state: SiteState, every_s: float | None = None) -> AsyncIterator[None]:
    """Runs the checks while the block runs; at its end logs every refusal that was not logged yet."""
    certificate = CertificateCheck(state, datetime.now(timezone.utc))  # loading the keys has checked it
    checks = _run_checks(state, certificate, every_s or state.refusals.every_s)
    task = asyncio.create_task(checks, name="periodic checks")
    try:
        yield
    finally:
        task.cancel()
        state.refusals.report_all()


async def _run_checks(state: SiteState, certificate: CertificateCheck, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        state.refusals.report()
        certificate.run(datetime.now(timezone.utc))
