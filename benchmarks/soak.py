"""Whether a live run stays small: three sites on loopback, an endless pan, viewers that click.

    python -m benchmarks.soak --minutes 15 --out benchmarks/results/soak_mini.json

Every few seconds the resident size of the edge and of each site is written down. Meanwhile objects come and
go and sending is paused now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
import numpy as np
from rich.console import Console

from benchmarks.machine import describe
from runtime.demo.demo import FRAME, SCENES, Pan, SiteProcesses, photo, three_sites
from runtime.frames.live_source import LiveSource
from runtime.live.interface import Live
from runtime.objects.prompts import PromptRequest, Prompts
from runtime.objects.state_file import StateFile
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.bundle import Bundle, shipped_bundle
from stages.errors import InputError

SAMPLE_S = 5.0
WARM_UP_SHARE = 0.3  # of the run, before growth is looked at


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=15.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, minutes: float, out: Path) -> None:
    """Run the loop for so long and report how its memory grew."""
    with tempfile.TemporaryDirectory() as scratch:
        result = asyncio.run(soak(Bundle.load(bundle or shipped_bundle()), minutes * 60, Path(scratch)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))


async def soak(bundle: Bundle, seconds: float, scratch: Path) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    with three_sites(bundle.path, scratch) as running:
        source = LiveSource("endless pan", lambda: Pan(photo(SCENES[0].photo), SCENES[0]))
        options = RunOptions(
            sites=running.toml,
            threads=1,
            allow_undistilled=True,
            state=StateFile(scratch / "objects.json", ""),
        )
        watcher = partial(_watcher, source, running, samples, seconds)
        console = Console(file=io.StringIO())
        summary = await run_session(bundle, source, Prompts(()), options, console, [watcher])
    return {
        "machine": describe(),
        "model": bundle.description,
        "minutes": round(seconds / 60, 2),
        **{key: summary[key] for key in _SUMMARY_KEYS},
        "messages": summary["messages"][-6:],
        **{f"{name}_growth_mb_per_hour": _growth(samples, name) for name in samples[0] if name != "s"},
        "edge_mb_range_after_warm_up": _range(samples, "edge"),
        "samples": samples,
    }


_SUMMARY_KEYS = (
    "frames", "frames_lost", "frames_bare", "frames_dropped", "fps", "latency_ms", "windows_run_at_edge",
    "windows_redispatched", "limited_by",
)  # fmt: skip


@contextlib.asynccontextmanager
async def _watcher(
    source: LiveSource, running: SiteProcesses, samples: list[dict[str, float]], seconds: float, live: Live
) -> AsyncIterator[str]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_sample, running, samples)
        tasks.start_soon(_click, live)
        tasks.start_soon(_end, source, seconds)
        yield "soaking"
        tasks.cancel_scope.cancel()


async def _end(source: LiveSource, seconds: float) -> None:
    await anyio.sleep(seconds)
    source.stop()


async def _sample(running: SiteProcesses, samples: list[dict[str, float]]) -> None:
    started = time.perf_counter()
    while True:
        sites = {f"site_{i}": _resident_mb(site.process.pid) for i, site in enumerate(running.sites)}
        samples.append({"s": round(time.perf_counter() - started, 1), "edge": _resident_mb("self"), **sites})
        await anyio.sleep(SAMPLE_S)


async def _click(live: Live) -> None:
    """What viewers do: objects come, are refined and go; sending is paused now and then."""
    rng = random.Random(0)  # noqa: S311  (the same clicks every time are wanted)
    names: list[str] = []
    while True:
        await anyio.sleep(1.0)
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
        live.pause(rng.random() < 0.05)


def _resident_mb(pid: int | str) -> float:
    """Resident size of a process now (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"process {pid} tells no VmRSS")


def _range(samples: list[dict[str, float]], name: str) -> list[float]:
    sizes = [sample[name] for sample in samples[int(len(samples) * WARM_UP_SHARE) :]]
    return [min(sizes), max(sizes)]


def _growth(samples: list[dict[str, float]], name: str) -> float:
    """Slope of a straight line through the samples after the start, MB an hour."""
    late = samples[int(len(samples) * WARM_UP_SHARE) :]
    if len(late) < 2:
        return 0.0
    slope = np.polyfit([sample["s"] for sample in late], [sample[name] for sample in late], 1)[0]
    return round(float(slope) * 3600, 1)


if __name__ == "__main__":
    main()
