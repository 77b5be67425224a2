"""Frames per second against what stages, cores and links allow.

    python -m benchmarks.throughput --out benchmarks/results/throughput_mini.json

Rows: `fixed` (engines that only take time), `straggler` (one site stalls now and then), `failing` (a fourth
site fails all its tiles), `loopback` (real engines, three sites on this machine), `live` (the same for a
camera) and `link` (the same behind slow links; needs root and iproute2).
`--rows` chooses some; the others stay in --out as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console

from benchmarks import slow_links
from benchmarks.cpu_time import CpuTimes, cpu_times
from benchmarks.fixed_latency import PROMPTS, Film, LiveFilm, Profile, beside_failing, steady, stragglers
from benchmarks.machine import describe, where
from runtime.demo.demo import site_process, three_sites
from runtime.live.interface import Live
from runtime.pipeline import PipelineOptions
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.bundle import Bundle, shipped_bundle
from stages.errors import InputError

PROFILES = {
    "sites slowest": Profile(0.04, 0.1, 0.02),
    "global slowest": Profile(0.01, 0.2, 0.02),
    "decode slowest": Profile(0.01, 0.05, 0.2),
}
# Two sites of one operator, so that a late window can be asked of the other.
STALLING = Profile(0.01, 0.04, 0.02, operators="aabc", stall_every=30, stall_s=1.0)
HONEST = Profile(0.02, 0.04, 0.02)
FIXED_LEAST = 0.95
ROWS = ("fixed", "straggler", "failing", "loopback", "live", "link")
WARM_UP = 10  # frames before anything is measured
LINKS = ((4.0, 0.0), (20.0, 0.0), (20.0, 0.02), (100.0, 0.0))  # Mbit/s each way, seconds of delay each way
TIMELINE = (20.0, 0.02, "int8")  # the link and wire format whose timeline is kept


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--rows", multiple=True, type=click.Choice(ROWS))
@click.option("--frames", type=click.IntRange(min=WARM_UP + 10), default=60, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Of real engines.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, rows: tuple[str, ...], frames: int, repeats: int, out: Path) -> None:
    """Measure the chosen rows, all of them by default. The timeline of a slow link lies beside --out.

    Fails when engines of fixed latency are more than 5 % below their slowest stage at the default depth.
    """
    loaded = Bundle.load(bundle or shipped_bundle())
    earlier = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    kept = {row: earlier[row] for row in ROWS if row in earlier}
    results: dict[str, Any] = {"model": loaded.description, "frames": frames} | kept
    measure: dict[str, Callable[[], Any]] = {
        "fixed": partial(_fixed, loaded, frames),
        "straggler": partial(_straggler, loaded, frames),
        "failing": partial(_failing, loaded, frames, repeats),
        "loopback": partial(_loopback, loaded, Film(frames), repeats),
        "live": partial(_loopback, loaded, LiveFilm(frames), repeats),
        "link": partial(_links, loaded, frames, out.with_name("throughput_timeline.png")),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for row in rows or measure:
        results[row] = {"machine": describe(), "load_before": os.getloadavg()[0], "runs": measure[row]()}
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        click.echo(json.dumps({row: results[row]["runs"]}, indent=1))
    _check(results)


def _check(results: dict[str, Any]) -> None:
    for run in results.get("fixed", {}).get("runs", ()):
        if run["in_flight"] == PipelineOptions().in_flight and run["ratio"] < FIXED_LEAST:
            raise click.ClickException(
                f"{run['profile']}: {run['ratio']} of the slowest stage, expected at least {FIXED_LEAST}; "
                "run it again on a machine that does nothing else, then look at the timeline"
            )


def markdown(result: Mapping[str, Any]) -> str:
    """A table of frames per second, and a sentence on each thing that can delay them."""
    told = {"fixed": _told_fixed, "loopback": _told_real, "link": _told_links, "live": _told_real}
    lines = ["| | frames/s | share of what is possible | on |", "| --- | --- | --- | --- |"]
    for row, cells in told.items():
        if row in result:
            on = where(result[row]["machine"])
            lines += [f"| {' | '.join(each)} | {on} |" for each in cells(row, result[row]["runs"])]
    sentences = {"live": _said_live, "straggler": _said_straggler, "failing": _said_failing}
    said = [f"- {say(result)}" for row, say in sentences.items() if row in result]
    return "\n".join([*lines, "", *said])


def _told_fixed(_: str, runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    depth = PipelineOptions().in_flight
    least = math.floor(100 * min(run["ratio"] for run in runs if run["in_flight"] == depth))
    label = f"engines that only take time, at the default `--in-flight {depth}`"
    share = f"{least} % or more of 1 / the slowest stage (global and decoder share a thread and count as one)"
    return [[label, "", share]]


def _told_real(row: str, runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    name = {"loopback": "real engines", "live": "a live source"}[row]
    label = f"{name}, three sites and the edge on this one machine"
    return [[label, _span([run["fps"] for run in runs], 1), _of_processor(runs)]]


def _told_links(_: str, runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for each link: what the two wire formats reach, of what the line or the processor allows."""
    cells = []
    for both in zip(runs[::2], runs[1::2], strict=True):
        delay_ms = max(run["round_trip_added_ms"] for run in both)
        delay = f" and {delay_ms:.0f} ms" if delay_ms else ""
        label = f"{both[0]['mbit']:.0f} Mbit/s{delay} to each site"
        cells.append([label, _span([run["fps"] for run in both], 1), _of_line(both)])
    return cells


def _of_line(runs: Sequence[Mapping[str, Any]]) -> str:
    if any(run["link_bound_fps"] > run["bound_fps"] for run in runs):
        return _of_processor(runs)
    ratio = _span([100 * run["ratio_to_lower_bound"] for run in runs], 0)
    return f"{ratio} % of {_span([run['link_bound_fps'] for run in runs], 1)}, what the message bodies allow"


def _of_processor(runs: Sequence[Mapping[str, Any]]) -> str:
    return f"{_span([100 * run['ratio'] for run in runs], 0)} % of what the processor allows"


def _said_live(result: Mapping[str, Any]) -> str:
    live, film = (
        _span([run["latency_ms"]["end_to_end"]["p50"] / 1e3 for run in result[row]["runs"]], 2)
        for row in ("live", "loopback")
    )
    return (
        f"From the camera to the masks it takes {live} s (medians of each run), a frame of a file {film} s."
    )


def _said_straggler(result: Mapping[str, Any]) -> str:
    p95_s = {run["hedging"]: run["latency_ms"]["p95"] / 1e3 for run in result["straggler"]["runs"]}
    return (
        f"One site that stalled for {STALLING.stall_s:.0f} s every {STALLING.stall_every} tiles: the 95th "
        f"percentile of latency was {p95_s[False]:.2f} s, and {p95_s[True]:.2f} s with a second site of the "
        f"same operator to ask instead ({where(result['straggler']['machine'])})."
    )


def _said_failing(result: Mapping[str, Any]) -> str:
    runs = result["failing"]["runs"]
    fps = [_span([run["fps"] for run in runs if run["failing_sites"] == sites], 1) for sites in (1, 0)]
    lost = sum(run["frames_lost"] for run in runs)
    return (
        "A fourth site that answers its probe and fails every tile, beside three with engines that only take "
        f"time: {fps[0]} frames/s with it, {fps[1]} without it, in turn, and {lost or 'no'} frames lost "
        f"({where(result['failing']['machine'])})."
    )


def _span(values: Sequence[float], digits: int) -> str:
    """ "4.8 to 5.1", or one number where both ends are written the same."""
    least, most = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return least if least == most else f"{least} to {most}"


def _fixed(bundle: Bundle, frames: int) -> list[dict[str, Any]]:
    return [
        {"profile": name, **asyncio.run(steady(bundle, profile, in_flight, frames))}
        for name, profile in PROFILES.items()
        for in_flight in (1, 2, 3)
    ]


def _straggler(bundle: Bundle, frames: int) -> list[dict[str, Any]]:
    return [asyncio.run(stragglers(bundle, STALLING, hedged, 2 * frames)) for hedged in (False, True)]


def _failing(bundle: Bundle, frames: int, repeats: int) -> list[dict[str, Any]]:
    """Without the failing site and with it, in turn."""
    profiles = (HONEST, replace(HONEST, failing="d"))
    return [
        asyncio.run(beside_failing(bundle, each, 4 * frames)) for _ in range(repeats) for each in profiles
    ]


def _loopback(bundle: Bundle, film: Film, repeats: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch, three_sites(bundle.path, Path(scratch)) as running:
        pids = [site.process.pid for site in running.sites]
        options = _options(running.toml)
        return [asyncio.run(_real(bundle, options, pids, film)) for _ in range(repeats)]


def _options(sites: Path, **more: Any) -> RunOptions:
    return RunOptions(
        sites=sites, threads=1, backend="onnxruntime-cpu", allow_undistilled=True, record=False, **more
    )


def _links(bundle: Bundle, frames: int, timeline: Path) -> list[dict[str, Any]]:
    try:
        slow_links.check_can_make_links()
    except InputError as exc:
        raise click.ClickException(str(exc)) from exc
    runs = []
    for mbit, delay_s in LINKS:
        for wire in ("fp16", "int8"):
            picture = timeline if (mbit, delay_s, wire) == TIMELINE else None
            runs.append(_over_link(bundle, frames, mbit, delay_s, wire, picture))
    return runs


def _over_link(
    bundle: Bundle, frames: int, mbit: float, delay_s: float, wire: str, timeline: Path | None
) -> dict[str, Any]:
    """One run with every site behind a link of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        addresses, pids = [], []
        for number in range(3):
            inside, address = stack.enter_context(slow_links.slow_link(number, mbit))
            arguments = ("--host", address, "--port", str(slow_links.PORT), "--insecure")
            log = scratch / f"site-{number}.log"
            site = stack.enter_context(site_process(bundle.path, log, inside, arguments))
            addresses.append(address)
            pids.append(site.process.pid)
        options = partial(_options, wire=wire, insecure=True, trace=scratch / "trace.json")
        result = asyncio.run(_delayed(bundle, addresses, delay_s, scratch, options, pids, frames))
        if timeline is not None:
            timeline.write_bytes((scratch / "trace.png").read_bytes())
    bits = 8 * max(result["bytes_up_per_site_and_frame"], result["bytes_down_per_site_and_frame"])
    bound = mbit * 1e6 / bits
    return {
        "mbit": mbit,
        "wire": wire,
        **result,
        "link_bound_fps": round(bound, 3),
        "ratio_to_lower_bound": round(result["fps"] / min(bound, result["bound_fps"]), 3),
    }


async def _delayed(
    bundle: Bundle,
    addresses: Sequence[str],
    delay_s: float,
    scratch: Path,
    options: Callable[[Path], RunOptions],
    pids: Sequence[int],
    frames: int,
) -> dict[str, Any]:
    """A run whose sites are reached through relays where there is a delay."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for address in addresses:
            url = f"http://{address}:{slow_links.PORT}"
            if delay_s:
                through = slow_links.relay(address, slow_links.PORT, delay_s)
                url = f"http://127.0.0.1:{await stack.enter_async_context(through)}"
            urls.append(url)
        added_s = await slow_links.calibrate(delay_s) if delay_s else 0.0
        result = await _real(bundle, options(_sites_file(scratch, urls)), pids, Film(frames))
    return {"round_trip_added_ms": round(added_s * 1e3, 2), **result}


def _sites_file(folder: Path, urls: Sequence[str]) -> Path:
    path = folder / "sites.toml"
    tables = (f'[[site]]\nname = "{n}"\noperator = "{n}"\nurl = "{url}"\n' for n, url in enumerate(urls))
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


@dataclass
class _Window:
    """What was used between two frames that were shown."""

    marks: list[tuple[int, CpuTimes]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def watch(self, pids: Sequence[int], last: int, live: Live) -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._mark, pids, last, live)
            yield "measuring"
            tasks.cancel_scope.cancel()

    async def _mark(self, pids: Sequence[int], last: int, live: Live) -> None:
        version = 0
        for wanted in (WARM_UP, last):
            while True:
                version, shown = await live.frames.after(version)
                if shown.number >= wanted:
                    break
            self.marks.append((shown.number, cpu_times([os.getpid(), *pids])))


async def _real(bundle: Bundle, options: RunOptions, sites: Sequence[int], film: Film) -> dict[str, Any]:
    """One run of real engines, from the frame after the warm-up to one before the end, where stages idle."""
    window = _Window()
    frames = film.count or 0
    last = frames - 1 - 2 * options.pipeline.in_flight
    watcher = partial(window.watch, sites, last)
    console = Console(file=io.StringIO())
    summary = await run_session(bundle, film, PROMPTS, options, console, [watcher])
    if len(window.marks) < 2:
        raise click.ClickException("a run was stopped before its last frame; rows before this one are kept")
    (first, before), (end, after) = window.marks
    count = end - first
    fps = count / (after.at_s - before.at_s)
    cores = len(os.sched_getaffinity(0))
    bounds = {
        "busiest_thread_s": after.busiest_since(before) / count,
        "cpu_s_over_cores": after.total_since(before) / count / cores,
    }
    others = after.cores_of_others_since(before)
    sent = {key: round(summary[key] / frames / 3) for key in ("bytes_up", "bytes_down")}
    return {
        "fps": round(fps, 3),
        "bound_fps": round(1 / max(bounds.values()), 3),
        "ratio": round(fps * max(bounds.values()), 4),
        **{name: round(value, 5) for name, value in bounds.items()},
        "cores_busy_with_other_things": round(others, 2),
        **{f"{key}_per_site_and_frame": value for key, value in sent.items()},
        **{
            key: summary[key]
            for key in ("wire", "frames_lost", "windows_run_at_edge", "latency_ms", "limited_by")
        },
    }


if __name__ == "__main__":
    main()
