"""A whole run on a board: `pedsam run` as a process with a `tegrastats` in its PATH."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from playwright.async_api import expect

from stages.bundle import Bundle
from tests.runtime.test_service import long_film
from tests.support.browser import chromium, opened
from tests.support.processes import MODULE
from tests.support.samples import lines_of
from tests.support.tegrastats import LOADED, STAY, says, starts, tegrastats

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
IDLE = lines_of("tegrastats-orin-nano-jp6-idle-root.txt")[0]


@asynccontextmanager
async def running(line: list[str], path: Path) -> AsyncIterator[tuple[anyio.abc.Process, str]]:
    """A process with this folder first in its PATH, and what it said until its metrics were there."""
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    async with await anyio.open_process(line, stderr=subprocess.STDOUT, env=environment) as process:
        assert process.stdout is not None
        text = ""
        try:
            with anyio.fail_after(120):
                async for part in TextReceiveStream(process.stdout):
                    text += part
                    if re.search(r"metrics at \S+\n", text):
                        break
            yield process, text
        finally:
            if process.returncode is None:
                process.kill()


async def test_the_board_is_on_the_page_in_the_metrics_the_trace_and_the_summary(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    program = tegrastats(tmp_path / "bin", says(IDLE, LOADED), STAY)
    line = [*MODULE, "run", "--source", str(long_film(tmp_path / "film.mp4")), "--realtime", "--preview", "0"]
    line += [
        "--bundle",
        str(mini_bundle.path),
        "--allow-undistilled",
        "--threads",
        "1",
        "--metrics-port",
        "0",
    ]
    line += ["--out", str(tmp_path / "out"), "--trace", str(tmp_path / "trace.json")]
    async with running(line, program.parent) as (process, text), chromium() as browser:
        address = text.partition("preview: ")[2].split()[0]
        async with opened(browser, address) as page:
            await expect(page.page.locator("#board")).to_have_text(
                "GPU 63 % · 6.0 of 7.4 GB · 54 °C · 12.5 W"
            )
            assert page.errors == []
        async with aiohttp.ClientSession() as session:
            metrics = await (await session.get(text.split("metrics at ")[1].split()[0])).text()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        with anyio.fail_after(60):
            rest = "".join([part async for part in TextReceiveStream(process.stdout)])
            assert await process.wait() == 0, rest
    assert "pedsam_board_gpu_load_percent 63.0\n" in metrics
    assert 'pedsam_board_power_milliwatts{rail="VDD_IN"} 12479.0\n' in metrics
    board = json.loads((tmp_path / "out/summary.json").read_text())["board"]
    assert board["readings"] >= 2  # a tegrastats that is silent for long is started again
    assert (board["temperature_c_peak"], board["power_w_peak"]) == (53.968, 12.479)
    assert (board["power_w_mean"], board["gpu_percent_mean"]) == (7.72, 31.5)
    assert board["memory_available_mb_least"] > 0  # of this machine
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    loads = [e["args"]["value"] for e in events if e["ph"] == "C" and e["name"] == "GPU load (%)"]
    assert loads[:2] == [0, 63]
    assert "board, mean / peak power" in rest
    assert starts(program)
    for pid, _ in starts(program):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
