"""What becomes of faults when the edge ends before they do: a real edge, and a site that is slow to end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from benchmarks.chaos.draw import Plan, SitePlan
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.film import make_film
from benchmarks.chaos.run import carry_out
from benchmarks.chaos.sites import SiteProcess
from benchmarks.processes import children_of


class SlowSite(SiteProcess):
    """It is never there, and its end takes longer than the edge."""

    ended = started_again = killed = False

    async def start(self, port: int = 0) -> None:
        self.started_again = self.ended

    async def terminate(self) -> None:
        while children_of(os.getpid()):  # noqa: ASYNC110  (the edge is the run's own)
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # the run goes on without it
        self.ended = True

    async def kill(self) -> None:
        self.killed = True

    async def check(self) -> list[str]:
        return []


def test_a_fault_that_has_begun_is_done_to_its_end_and_another_never_begins(tmp_path: Path) -> None:
    film = make_film(0, tmp_path / "film")
    faults = (
        Fault("terminate", "a", 0, 1, 0.5),
        Fault("sigterm", "", 0, 1, 0.5),
        Fault("kill", "a", 1 << 20, 1, 0.5),
    )
    sites = (SitePlan("a", "alpha", False, None), SitePlan("b", "beta", False, None))
    plan = Plan(0, 0, "fp16", sites, True, faults, times=1)
    pool = {name: SlowSite(tmp_path, name) for name in "ab"}
    outcome = asyncio.run(asyncio.wait_for(carry_out(plan, film, pool, tmp_path / "run"), 120))
    site = pool["a"]
    assert outcome.edges[0].stopped_by == signal.SIGTERM
    assert (site.ended, site.started_again, site.killed) == (True, True, False)
