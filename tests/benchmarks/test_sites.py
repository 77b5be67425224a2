"""What is done to real sites, and what is looked at: processes of theirs that have a session of their own."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.chaos.sites import SiteProcess, ended_session
from benchmarks.processes import children_of
from server.logs import OWN, facts, logging_to

NOBODY = 1 << 30  # no process has this number


def test_the_json_process_of_a_site_is_killed_and_another_one_reads_on(tmp_path: Path) -> None:
    async def killed_twice() -> None:
        site = SiteProcess(tmp_path, "a")
        await site.start()
        assert site.pid is not None
        try:
            await site.kill_json_process(0.0)
            first = children_of(site.pid)
            await site.kill_json_process(0.5)
            second = children_of(site.pid)
            assert site.wrong == []
            assert first
            assert second
            assert not set(first) & set(second)
            site.send(signal.SIGSTOP)
            await site.kill_json_process(0.0)  # it would answer nothing
            await site.terminate()
            assert site.wrong == []
        finally:
            await site.kill()
        assert await site.check() == []

    asyncio.run(killed_twice())


def test_an_error_that_a_site_logs_is_told_once(tmp_path: Path) -> None:
    site = SiteProcess(tmp_path, "a")
    log = logging.getLogger(OWN)
    with (tmp_path / "site-a.log").open("w") as file, logging_to(file):
        log.warning("all is well", extra=facts("busy"))
        file.flush()
        assert asyncio.run(site.check()) == []
        try:
            raise ValueError
        except ValueError:
            log.exception("a request failed", extra=facts("request_failed"))
        file.flush()
        (said,) = asyncio.run(site.check())
    assert "request_failed" in said
    assert "ValueError" in said
    assert asyncio.run(site.check()) == []


def test_a_process_with_a_session_of_its_own_is_waited_for() -> None:
    async def waited(process: subprocess.Popen[bytes]) -> None:
        waiting = asyncio.create_task(ended_session(NOBODY, [process.pid]))
        assert not (await asyncio.wait([waiting], timeout=0.3))[0]
        process.kill()
        assert await waiting == []

    line = [sys.executable, "-c", "input()"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True) as process:
        asyncio.run(waited(process))
