"""The processes at the far end of a run over a line: sites of one bundle, and the line before them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from benchmarks.links.line import Link
from benchmarks.processes import die_with_starter
from stages.bundle import Bundle
from stages.errors import PedsamError

START_S = 120.0
_REACHED = re.compile(r"(\S+) is reached at (\S+)\n")


@contextlib.asynccontextmanager
async def site_addresses(bundle: Bundle, tile_s: float, sites: int) -> AsyncIterator[tuple[int, list[str]]]:
    """Process and host:port of so many sites with engines of fixed latency, while the block runs."""
    arguments = ("--bundle", str(bundle.path), "--tile-ms", str(tile_s * 1e3), "--sites", str(sites))
    async with _started("benchmarks.links.sites", *arguments) as process:
        yield process.pid, [(await _line(process)).strip() for _ in range(sites)]


@dataclass(frozen=True)
class ShapedLine:
    """A line that runs in a process; `near` is where the edge reaches a site, both as host:port."""

    process: asyncio.subprocess.Process
    near: dict[str, str]

    async def carried(self) -> tuple[int, int]:
        """Bytes that it has taken up and down so far."""
        self.process.send_signal(signal.SIGUSR1)
        counts = json.loads(await _line(self.process))
        return counts["up"], counts["down"]


@contextlib.asynccontextmanager
async def shaped_line(link: Link, addresses: Sequence[str]) -> AsyncIterator[ShapedLine]:
    """All these addresses behind one line, while the block runs."""
    arguments = ["--up", str(link.up_mbit), "--down", str(link.down_mbit)]
    arguments += ["--round-trip-ms", str(link.round_trip_s * 1e3), *addresses]
    async with _started("benchmarks.links.shaper", *arguments) as process:
        near = {}
        for _ in addresses:
            if found := _REACHED.fullmatch(await _line(process)):
                near[found[1]] = found[2]
        yield ShapedLine(process, near)


@contextlib.asynccontextmanager
async def _started(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE, preexec_fn=die_with_starter
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    """The next line that a process prints."""
    if process.stdout is None:
        raise RuntimeError("a process was started without a pipe")
    line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
    if not line:
        raise PedsamError("a process of the line's far end has ended; what it printed says why")
    return line
