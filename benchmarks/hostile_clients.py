"""Tiles a second of an honest client, alone and beside ten hostile ones, and the site's memory.

    python -m benchmarks.hostile_clients --out benchmarks/results/hostile_clients_mini.json

One `pedsam serve` with keys, on loopback. Windows of time with and without the attack alternate, so that
whatever else this machine does falls on both; each pair gives one ratio. The hostile clients are a process
with the lowest priority and pause between their steps: what is measured is what they do to the site, not
what they take of the machine. The requests they send in full are of one tile: a tile that is run for someone
who does not wait for it costs what any tile costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np

from benchmarks.machine import describe
from stages.bundle import Bundle, shipped_bundle
from tests.server.test_hostile import Honest, good_request, resident_mib
from tests.support.hostile import PAUSE_S, Hostile
from tests.support.keys import keys_for, site_at
from tests.support.processes import ServeProcess, serving

IN_FLIGHT = 8  # requests of one tile each: the connections an edge keeps to a site
LIMITS = ("--header-timeout", "1", "--read-timeout", "1", "--write-timeout", "1", "--max-per-address", "32")
NICE = 19


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--pairs", type=click.IntRange(1), default=15, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True, help="Of one window.")
@click.option("--out", type=click.Path(path_type=Path), help="The results as JSON.")
@click.option("--attack", "target", type=(str, click.Path(path_type=Path)), hidden=True)
def main(
    bundle: Path | None, pairs: int, seconds: float, out: Path | None, target: tuple[str, Path] | None
) -> None:
    """Measure one site under attack; every answer to the honest client is checked."""
    loaded = Bundle.load(bundle or shipped_bundle())
    if target:
        asyncio.run(_attack(loaded, *target))
        return
    with tempfile.TemporaryDirectory() as scratch:
        result = _measure(loaded, Path(scratch), pairs, seconds)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


async def _attack(bundle: Bundle, url: str, keys: Path) -> None:
    """Attack until standard input ends, then print what became of it."""
    os.nice(NICE)
    site = site_at(url, keys)
    token = site.token or ""
    hostile = Hostile(url, site.ssl_context(), token, good_request(bundle, token, tiles=1))
    attack = asyncio.create_task(hostile.attack())
    await asyncio.to_thread(sys.stdin.read)
    attack.cancel()
    await asyncio.wait([attack])
    print(json.dumps(hostile.cut_off))


def _measure(bundle: Bundle, scratch: Path, pairs: int, seconds: float) -> dict[str, Any]:
    keys = keys_for(scratch)
    with serving(bundle.path, "--keys", str(keys), *LIMITS) as process:
        windows, memory, ended = asyncio.run(_windows(bundle, process, keys, pairs, seconds))
    before, *after, peak = memory
    ratios = [attacked / quiet for quiet, attacked in windows]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else []
    return {
        "machine": describe(),
        "model": bundle.description,
        "load_average": os.getloadavg(),
        "hostile": f"10 clients, one process at nice {NICE}, {PAUSE_S} s between the steps of each",
        "hostile_clients_ended": ended,
        "limits": " ".join(LIMITS),
        "window_s": seconds,
        "tiles_per_s_quiet": round(statistics.median(quiet for quiet, _ in windows), 1),
        "tiles_per_s_attacked": round(statistics.median(attacked for _, attacked in windows), 1),
        "ratio_median_of_pairs": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(quartile, 3) for quartile in quartiles],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "site_memory_mib": {"before": before, "after_each_pair": after, "peak": peak},
    }


async def _windows(
    bundle: Bundle, process: ServeProcess, keys: Path, pairs: int, seconds: float
) -> tuple[list[tuple[float, float]], list[float], dict[str, int]]:
    """Tiles a second, quiet and attacked, of each pair; the site's memory in MiB before the first pair, after
    each and at most; how many hostile clients ended.
    """
    site = site_at(process.url, keys)
    pid = process.process.pid
    ended: dict[str, int] = {}
    headers = {"Authorization": f"Bearer {site.token}"}
    async with aiohttp.ClientSession(process.url, headers=headers) as session:
        honest = Honest(bundle, site, session)
        await _tiles_per_s(honest, seconds)
        resident = [resident_mib(pid, "VmRSS")]
        windows = []
        for number in range(pairs):
            quiet = 0.0
            for attacked in (False, True) if number % 2 == 0 else (True, False):
                if attacked:
                    with _attacked(bundle, process.url, keys, ended):
                        await asyncio.sleep(1)  # until its process has started and every kind is there
                        under_attack = await _tiles_per_s(honest, seconds)
                else:
                    quiet = await _tiles_per_s(honest, seconds)
            windows.append((quiet, under_attack))
            resident.append(resident_mib(pid, "VmRSS"))
    return windows, [round(mib, 1) for mib in (*resident, resident_mib(pid, "VmHWM"))], ended


@contextlib.contextmanager
def _attacked(bundle: Bundle, url: str, keys: Path, ended: dict[str, int]) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.hostile_clients", "--bundle", str(bundle.path)]
    with subprocess.Popen(
        [*command, "--attack", url, str(keys)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield
        said, _ = process.communicate("")
    for kind, count in json.loads(said).items():
        ended[kind] = ended.get(kind, 0) + count


async def _tiles_per_s(honest: Honest, seconds: float) -> float:
    """IN_FLIGHT requests under way for so long."""
    started = time.perf_counter()

    async def ask() -> int:
        count = 0
        while time.perf_counter() - started < seconds:
            await honest.ask(1)
            count += 1
        return count

    counts = await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    return float(np.sum(counts)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
