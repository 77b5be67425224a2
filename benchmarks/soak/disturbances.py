"""What happens to the run all the time: a camera that drops out, sites that are killed, viewers who click."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from benchmarks.chaos.sites import SiteProcess, site_pool
from benchmarks.processes import die_with_starter
from runtime.demo.demo import FRAME
from runtime.live.interface import Live
from runtime.objects.prompts import PromptRequest
from stages.errors import InputError
from tests.support.streams import NetworkCamera

SITES = "abc"
STEADY = "a"  # the site that is never killed, whose growth can be seen
STREAM_S = (20.0, 60.0)  # between two drops of the camera
GONE_S = (0.0, 5.0)  # until it streams again
ALIVE_S = (20.0, 60.0)  # between two deaths of a site
DEAD_S = (0.0, 15.0)  # until it is started again
CLICK_S = 1.0


@contextlib.asynccontextmanager
async def started_sites(folder: Path) -> AsyncIterator[tuple[dict[str, SiteProcess], Path]]:
    """Three sites that keep their addresses when they are started again, and their sites.toml."""
    async with site_pool(folder, SITES) as sites:
        tables = []
        for site, port in zip(sites.values(), _free_ports(len(sites)), strict=True):
            await site.start(port)
            tables.append(
                f'[[site]]\nname = "{site.name}"\noperator = "operator-{site.name}"\n'
                f'url = "http://127.0.0.1:{port}"\n'
            )
        toml = folder / "sites.toml"
        toml.write_text("\n".join(tables), encoding="utf-8")
        yield sites, toml


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(each.getsockname()[1]) for each in held]


async def kill_sites(sites: Mapping[str, SiteProcess], rng: random.Random, counts: Counter[str]) -> None:
    """Kill a site now and then, start it again; one in three deaths is a SIGTERM."""
    while True:
        await asyncio.sleep(rng.uniform(*ALIVE_S))
        site = sites[rng.choice([name for name in sites if name != STEADY])]
        port = site.port or 0
        gently = rng.random() < 1 / 3
        await (site.terminate() if gently else site.kill())
        counts["sites_stopped" if gently else "sites_killed"] += 1
        await asyncio.sleep(rng.uniform(*DEAD_S))
        await site.start(port)


async def drop_camera(camera: NetworkCamera, rng: random.Random, counts: Counter[str]) -> None:
    """End the camera's stream now and then; until it streams again it refuses whoever asks."""
    while True:
        await asyncio.sleep(rng.uniform(*STREAM_S))
        camera.streaming.clear()
        counts["camera_drops"] += 1
        await asyncio.sleep(rng.uniform(*GONE_S))
        camera.streaming.set()


async def click(live: Live, rng: random.Random, counts: Counter[str]) -> None:
    """What viewers do: objects come, are refined and go; sending is paused now and then."""
    names: list[str] = []
    while True:
        await asyncio.sleep(CLICK_S)
        shown = live.frames.value
        if shown is None:
            continue
        point = (rng.uniform(0, FRAME[0] - 1), rng.uniform(0, FRAME[1] - 1), 1)
        with contextlib.suppress(InputError):  # an object that waits is not there yet
            if len(names) >= 4 or (names and rng.random() < 0.3):
                live.remove(names.pop(0))
            else:
                number = max(0, shown.number - rng.randrange(8))
                names.append(await live.prompt(PromptRequest(number, points=(point,))))
            counts["clicks"] += 1
        live.pause(rng.random() < 0.05)


@contextlib.asynccontextmanager
async def viewers(address: str, counts: Counter[str]) -> AsyncIterator[None]:
    """The viewers of `benchmarks.soak.viewers` while the block runs."""
    pipe = asyncio.subprocess.PIPE
    line = (sys.executable, "-m", "benchmarks.soak.viewers", address)
    process = await asyncio.create_subprocess_exec(
        *line, stdin=pipe, stdout=pipe, preexec_fn=die_with_starter
    )
    try:
        yield
        said, _ = await process.communicate(b"")
        counts.update({f"viewer_{kind}": count for kind, count in json.loads(said).items()})
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
