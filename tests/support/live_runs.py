"""A live run for tests, one frame at a time, and what it shows."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from rich.console import Console

from runtime.frames.sources import Source
from runtime.live.interface import Live
from runtime.objects.prompts import Prompts
from runtime.results.result import FrameResult, ObjectResult
from runtime.run_options import RunOptions
from runtime.session import Watcher, run_session
from server.serve import RunningSite, ServeOptions, running_site
from stages.bundle import Bundle
from stages.console import make_console
from tests.support.cameras import Camera, scenery
from tests.support.edge import sites_file

PATIENCE_S = 120
NOTHING_ASKED = Prompts(())


@dataclass
class LiveRun:
    """A run that goes on in the background. `summary` is filled once it has ended."""

    live: Live
    camera: Camera
    lines: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    shown: int = 0

    async def frame(self) -> FrameResult:
        """Show the camera's next picture and wait until the loop is done with it."""
        number, self.shown = self.shown, self.shown + 1
        if number:  # the camera has shown one to be opened
            self.camera.show(scenery(number))
        return await self.until(lambda shown: shown.number >= number)

    async def until(self, condition: Any) -> FrameResult:
        """The first frame shown from now on for which this holds."""
        version = 0
        with anyio.fail_after(PATIENCE_S):
            while True:
                version, shown = await self.live.frames.after(version)
                if condition(shown):
                    return shown

    async def frames_until(self, condition: Any) -> FrameResult:
        """Go on showing pictures until this holds for one."""
        while True:
            shown = await self.frame()
            if condition(shown):
                return shown


@asynccontextmanager
async def live_run(
    bundle: Bundle, sites: Path | None, prompts: Prompts = NOTHING_ASKED, **more: Any
) -> AsyncIterator[LiveRun]:
    """A run on a Camera that has shown one picture; it ends with the block."""
    camera = Camera()
    camera.show(scenery(0))
    options = run_options(sites, **more)
    runs: list[LiveRun] = []

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        runs.append(LiveRun(live, camera))
        yield "watching"

    async with background_run(bundle, camera.source(), prompts, options, watcher) as summary:
        try:
            runs[0].summary = summary
            yield runs[0]
        finally:
            camera.unplug()


def run_options(sites: Path | None, **more: Any) -> RunOptions:
    return RunOptions(sites=sites, threads=1, allow_undistilled=True, **more)


@asynccontextmanager
async def background_run(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    options: RunOptions,
    *watchers: Watcher,
    console: Console | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """A run that goes on until the block ends; its summary is in the dict afterwards."""
    started = anyio.Event()
    summary: dict[str, Any] = {}

    @asynccontextmanager
    async def last(live: Live) -> AsyncIterator[str]:
        started.set()
        yield "started"

    async def run() -> None:
        terminal = console or make_console(file=io.StringIO(), width=200)
        summary.update(await run_session(bundle, source, prompts, options, terminal, [*watchers, last]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        try:
            yield summary
        finally:
            source.stop()


@dataclass
class CountedSites:
    """Sites, and how many tiles their engines have run, probes included."""

    file: Path
    running: dict[str, RunningSite]
    ends: dict[str, anyio.Event]

    def stop(self, name: str) -> None:
        """Shut one down before the others."""
        self.ends[name].set()

    def tiles(self) -> int:
        return sum(site.batcher.statistics.tiles for site in self.running.values())


@asynccontextmanager
async def counted_sites(bundle: Bundle, folder: Path, names: str = "abc") -> AsyncIterator[CountedSites]:
    """Real sites in this process, and the sites.toml that lists them."""
    ends = {name: anyio.Event() for name in names}
    async with anyio.create_task_group() as tasks:
        running = {name: await tasks.start(_serve, bundle, end) for name, end in ends.items()}
        file = sites_file(folder / "sites.toml", *((name, site.url) for name, site in running.items()))
        try:
            yield CountedSites(file, running, ends)
        finally:
            for end in ends.values():
                end.set()


async def _serve(bundle: Bundle, end: anyio.Event, *, task_status: TaskStatus[RunningSite]) -> None:
    async with running_site(bundle, ServeOptions(port=0, threads=1)) as site:
        task_status.started(site)
        await end.wait()


def objects(shown: FrameResult) -> dict[str, ObjectResult]:
    return {each.name: each for each in shown.objects}
