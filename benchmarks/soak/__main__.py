"""`python -m benchmarks.soak`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console

from benchmarks.chaos.sites import SiteProcess
from benchmarks.machine import describe
from benchmarks.processes import children_of, command_of
from benchmarks.soak import disturbances
from benchmarks.soak.samples import growth_per_hour, is_flat, take, value_range
from runtime.frames.cameras import CameraOptions, source_for
from runtime.frames.sources import Source
from runtime.live.interface import Live
from runtime.objects.prompts import Prompts
from runtime.objects.state_file import StateFile
from runtime.preview import PreviewOptions, preview
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.allocator import give_memory_back
from stages.bundle import Bundle, shipped_bundle
from tests.support.streams import NetworkCamera, network_camera

SAMPLE_S = 5.0
MOST_SAMPLES = 240  # that are kept in the result
CAMERA_READER = "capturing.main()"  # in its command line
# Whose growth is looked at: a site that was killed begins anew.
STEADY = [f"{name}_{unit}" for name in ("edge", "site_a") for unit in ("mb", "threads", "files")]


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=15.0, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of what happens when.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(minutes: float, seed: int, out: Path) -> None:
    """Run the loop for so long with a camera that drops out, sites that are killed, and slow viewers.

    Ends with 1 when a frame was lost, or memory, threads or open files were not flat.
    """
    give_memory_back()  # as pedsam run does
    bundle = Bundle.load(shipped_bundle())
    with tempfile.TemporaryDirectory() as scratch, network_camera() as camera:
        result = asyncio.run(soak(bundle, camera, minutes * 60, seed, Path(scratch)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
    sys.exit(0 if result["flat"] and not result["frames_lost"] and not result["sites_wrong"] else 1)


async def soak(
    bundle: Bundle, camera: NetworkCamera, seconds: float, seed: int, scratch: Path
) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    counts: Counter[str] = Counter()
    rng = random.Random(seed)  # noqa: S311  (the same disturbances every time are wanted)
    async with disturbances.started_sites(scratch) as (sites, toml):
        source = source_for(camera.url, CameraOptions())
        options = RunOptions(sites=toml, threads=1, state=StateFile(scratch / "objects.json", ""))
        disturbed: list[Coroutine[Any, Any, None]] = []
        disturbed.append(_sample(sites, samples))
        disturbed.append(disturbances.kill_sites(sites, rng, counts))
        disturbed.append(disturbances.drop_camera(camera, rng, counts))
        disturbed.append(_end(source, seconds))
        watcher = partial(_watcher, bundle, disturbed, rng, counts)
        console = Console(file=io.StringIO())
        summary = await run_session(bundle, source, Prompts(()), options, console, [watcher])
        wrong = [sentence for site in sites.values() for sentence in await site.check()]
    return {
        "machine": describe(),
        "model": bundle.description,
        "minutes": round(seconds / 60, 2),
        "disturbances": dict(counts),
        **{key: summary[key] for key in _SUMMARY_KEYS},
        "messages": summary["messages"][-6:],
        "sites_wrong": wrong,
        "flat": all(is_flat(samples, name) for name in STEADY),
        "growth_per_hour": {name: growth_per_hour(samples, name) for name in STEADY},
        "range_after_warm_up": {name: value_range(samples, name) for name in STEADY},
        "samples": samples[:: -(-len(samples) // MOST_SAMPLES) or 1],
    }


_SUMMARY_KEYS = (
    "frames", "frames_lost", "frames_bare", "frames_dropped", "fps", "latency_ms", "windows_run_at_edge",
    "windows_redispatched", "limited_by",
)  # fmt: skip


@contextlib.asynccontextmanager
async def _watcher(
    bundle: Bundle,
    disturbed: list[Coroutine[Any, Any, None]],
    rng: random.Random,
    counts: Counter[str],
    live: Live,
) -> AsyncIterator[str]:
    """All that goes on beside the run."""
    options = PreviewOptions(port=0, model=bundle.description)
    async with preview(live, options) as address, disturbances.viewers(address, counts):
        tasks = [asyncio.create_task(each) for each in (*disturbed, disturbances.click(live, rng, counts))]
        yield "soaking"
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if failed := [each for each in ended if isinstance(each, Exception)]:
            raise failed[0]


async def _end(source: Source, seconds: float) -> None:
    await anyio.sleep(seconds)
    source.stop()


async def _sample(sites: Mapping[str, SiteProcess], samples: list[dict[str, float]]) -> None:
    started = time.perf_counter()
    while True:
        sample = {"s": round(time.perf_counter() - started, 1), **take("self", "edge")}
        for name, site in sites.items():
            if site.pid is not None:
                sample |= take(site.pid, f"site_{name}")
        for pid in _camera_readers():
            sample |= take(pid, "camera")
        samples.append(sample)
        await anyio.sleep(SAMPLE_S)


def _camera_readers() -> list[int]:
    """The process that reads the camera, while there is one."""
    return [pid for pid in children_of(os.getpid()) if CAMERA_READER in command_of(pid)]


if __name__ == "__main__":
    main()
