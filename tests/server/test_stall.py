"""A site whose engine raises, is late, or never comes back: its health, its requests, its end.

The site is a process of its own around an engine that fails on purpose (tests/support/odd_site.py).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from server.serve import FORCED_S
from stages import wire
from tests.support.clients import INFER, Answer
from tests.support.fakes import tiles
from tests.support.odd_site import STALL_S
from tests.support.processes import ServeProcess, site_process

pytestmark = pytest.mark.anyio
LIVE, READY = "/v2/health/live", "/v2/health/ready"
STALLED = f"the engine of this site has not answered for {STALL_S:g} s; use another one"


@dataclass
class Odd:
    site: ServeProcess
    session: aiohttp.ClientSession

    async def health(self) -> tuple[int, int]:
        """The statuses of live and ready."""
        return (await self.ask("GET", LIVE)).status, (await self.ask("GET", READY)).status

    async def until_health(self, live: int, ready: int) -> None:
        while await self.health() != (live, ready):  # noqa: ASYNC110  (it tells nobody)
            await asyncio.sleep(0.02)

    async def ask(self, method: str, path: str, **request: object) -> Answer:
        async with self.session.request(method, path, **request) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def infer(self) -> Answer:
        sent = wire.encode_request(tiles(1), ["embedding"])
        return await self.ask("POST", INFER, data=sent.body, headers=sent.headers)

    async def wait(self) -> tuple[int, str]:
        return await asyncio.to_thread(self.site.wait)


@asynccontextmanager
async def odd_site(mode: str, until: Path = Path("never"), grace_s: float = 0.2) -> AsyncIterator[Odd]:
    line = [sys.executable, "-m", "tests.support.odd_site", mode, str(until), str(grace_s)]
    timeout = aiohttp.ClientTimeout(total=60)
    with site_process(line) as site:
        async with aiohttp.ClientSession(site.url, timeout=timeout) as session:
            yield Odd(site, session)


async def test_an_engine_that_raises_is_answered_500_and_the_site_goes_on() -> None:
    async with odd_site("raises") as odd:
        for _ in range(2):
            answer = await odd.infer()
            assert (answer.status, answer.error) == (
                500,
                "the site failed to serve this request; its log says why",
            )
        assert await odd.health() == (200, 200)
        odd.site.process.terminate()
        assert (await odd.wait())[0] == 0
        assert [entry["error"] for entry in odd.site.log if entry["event"] == "request_failed"] == [
            "EngineError: the device is gone"
        ] * 2


async def test_an_engine_that_is_late_makes_the_site_unhealthy_until_it_is_back(tmp_path: Path) -> None:
    async with odd_site("late", tmp_path / "go on") as odd:
        running, waiting = asyncio.create_task(odd.infer()), asyncio.create_task(odd.infer())
        for answer in (await running, await waiting, await odd.infer()):
            assert (answer.status, answer.error, answer.headers["Retry-After"]) == (503, STALLED, "10")
        assert await odd.health() == (503, 503)
        assert (await odd.ask("GET", LIVE)).json == {"live": False}
        assert (await odd.ask("GET", READY)).json == {"ready": False}
        (tmp_path / "go on").touch()
        await odd.until_health(200, 200)
        assert (await odd.infer()).holds(1)
        odd.site.process.terminate()
        assert await odd.wait() == (0, "")


async def test_sigterm_ends_a_site_whose_engine_never_comes_back() -> None:
    async with odd_site("hangs") as odd:
        asked = asyncio.create_task(odd.infer())
        await odd.until_health(503, 503)
        assert (await asked).status == 503
        odd.site.process.terminate()
        code, complaints = await odd.wait()
        assert code == 1
        sentence = f"not stopped within {FORCED_S + 0.2:g} s, so ended; an engine call does not come back"
        assert odd.site.lines[-2:] == ["stopping: requests under way are finished first", sentence]
        assert "given_up" in complaints


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
async def test_a_second_signal_does_not_wait_for_it(second: signal.Signals) -> None:
    async with odd_site("hangs", grace_s=600) as odd:
        asked = asyncio.create_task(odd.infer())
        await odd.until_health(503, 503)
        await asked
        odd.site.process.terminate()
        assert (
            await asyncio.to_thread(odd.site.read_line) == "stopping: requests under way are finished first"
        )
        odd.site.process.send_signal(second)
        assert (await odd.wait())[0] == -second
