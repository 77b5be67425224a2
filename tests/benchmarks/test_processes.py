"""What the harnesses start does not outlive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.processes import children_of, command_of, is_alive
from tests.runtime.frames.test_capture_process import until
from tests.support.bundles import ROOT

SITE = """
import asyncio, sys
from pathlib import Path
from benchmarks.chaos.sites import SiteProcess
async def main():
    await SiteProcess(Path(sys.argv[1]).parent, "a").start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "line",
    [("-m", "benchmarks.stops", "--runs", "1", "--out"), ("-m", "benchmarks.chaos", "--keep"), ("-c", SITE)],
    ids=["stops", "chaos", "site"],
)
def test_what_a_harness_started_is_killed_with_it(line: Sequence[str], tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, *line, str(tmp_path / "out")], cwd=ROOT) as harness:
        try:
            until(lambda: bool(_running(harness.pid)))
            (child,) = _running(harness.pid)
            os.kill(child, signal.SIGSTOP)  # it does not end by itself
        finally:
            harness.kill()
    try:
        until(lambda: not is_alive(child))
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def _running(harness: int) -> list[int]:
    """Its children that have become pedsam: then what is done before that is done."""
    return [pid for pid in children_of(harness) if " -m pedsam " in command_of(pid)]
