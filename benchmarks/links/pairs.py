"""Runs of several bundles over one line, in turn, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cpu_time import CpuTimes, cpu_times
from benchmarks.fixed_latency import HEIGHT, WIDTH, LiveFilm, Profile, fixed_edge
from benchmarks.links.arithmetic import BytesPerFrame, bounds_fps, tensor_bytes
from benchmarks.links.far_end import ShapedLine, shaped_line, site_addresses
from benchmarks.links.line import Link
from runtime.results.measurements import RunMeasurements
from runtime.sites.config import SiteConfig
from stages.bundle import Bundle
from stages.errors import FramesLost

WARM_UP = 6  # frames, until as many as ever are under way
FEWEST, MOST = 12, 600  # frames measured in one run


@dataclass(frozen=True)
class Entry:
    """A bundle, the wire format it uses, and how many bytes of windows share a request at most."""

    bundle: Bundle
    wire_format: str
    request_bytes: int


@dataclass(frozen=True)
class Contender(Entry):
    """One that is measured, with the process and addresses of its sites."""

    name: str
    pid: int
    addresses: Sequence[str]

    @property
    def windows(self) -> int:
        """That a frame of the film sends."""
        return len(self.bundle.geometry.windows_with_picture(HEIGHT, WIDTH))


@dataclass(frozen=True)
class Plan:
    """Each bundle runs `repeats` times for about `seconds` over each line, `in_flight` frames at once."""

    profile: Profile
    in_flight: int
    seconds: float
    repeats: int


@contextlib.asynccontextmanager
async def contenders(entries: Mapping[str, Entry], profile: Profile) -> AsyncIterator[list[Contender]]:
    """Entries by name, each with sites of its own while the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name, entry in entries.items():
            sites = site_addresses(entry.bundle, profile.tile_s, len(profile.operators))
            pid, addresses = await stack.enter_async_context(sites)
            found.append(Contender(**vars(entry), name=name, pid=pid, addresses=addresses))
        yield found


async def over_link(against: Sequence[Contender], link: Link, plan: Plan) -> list[dict[str, Any]]:
    """A row for each contender; the first is what the others are compared with."""
    addresses = [address for each in against for address in each.addresses]
    runs: list[dict[str, dict[str, Any]]] = []
    async with shaped_line(link, addresses) as line:
        for number in range(plan.repeats):
            in_turn = against if number % 2 == 0 else against[::-1]
            runs.append({each.name: await _run(each, line, link, plan) for each in in_turn})
    return [_row(each, against[0].name, link, plan, runs) for each in against]


async def _run(contender: Contender, line: ShapedLine, link: Link, plan: Plan) -> dict[str, Any]:
    """One run: frames a second and latencies after the warm-up, bytes and processor time a frame."""
    expected = min(_bounds(contender, link, plan).values())
    frames = WARM_UP + plan.in_flight + min(max(round(expected * plan.seconds), FEWEST), MOST)
    sites = [
        SiteConfig(operator, operator, f"http://{line.near[address]}")
        for operator, address in zip(plan.profile.operators, contender.addresses, strict=True)
    ]
    pids = {"edge": os.getpid(), "sites": contender.pid, "line": line.process.pid}
    edge = fixed_edge(
        contender.bundle,
        sites,
        plan.profile,
        plan.in_flight,
        wire_format=contender.wire_format,
        request_bytes=contender.request_bytes,
    )
    async with edge as run:
        before, bytes_before = cpu_times(list(pids.values())), await line.carried()
        measured = await run.pipeline.run(LiveFilm(frames))
        after, bytes_after = cpu_times(list(pids.values())), await line.carried()
    if measured.lost.count:
        raise FramesLost(f"{measured.lost.count} frames were lost: {measured.lost.reasons}")
    up, down = ((end - start) / frames for start, end in zip(bytes_before, bytes_after, strict=True))
    return steady(measured, plan.in_flight) | {
        "bytes_up": up,
        "bytes_down": down,
        **_processor(before, after, pids, frames),
    }


def steady(measured: RunMeasurements, in_flight: int) -> dict[str, Any]:
    """Frames a second and latency in s of the frames after the warm-up and before the end, when fewer and
    fewer are under way."""
    kept = slice(WARM_UP, -in_flight)
    series = measured.seconds["end_to_end"]
    ends_s, latency_s = list(series.at_s)[kept], list(series.recent)[kept]
    p50, p95 = np.percentile(latency_s, [50, 95])
    return {
        "frames": len(ends_s),
        "fps": (len(ends_s) - 1) / (ends_s[-1] - ends_s[0]),
        "p50": float(p50),
        "p95": float(p95),
    }


def _processor(before: CpuTimes, after: CpuTimes, pids: Mapping[str, int], frames: int) -> dict[str, float]:
    return {
        **{f"cpu_{name}": after.process_since(before, pid) / frames for name, pid in pids.items()},
        "busiest": after.busiest_since(before) / (after.at_s - before.at_s),
        "others": after.cores_of_others_since(before),
    }


def _bounds(
    contender: Contender, link: Link, plan: Plan, traffic: BytesPerFrame | None = None
) -> dict[str, float]:
    traffic = traffic or tensor_bytes(contender.bundle, contender.wire_format)
    return bounds_fps(traffic, link, plan.profile, contender.windows, plan.in_flight)


def _row(
    contender: Contender, first: str, link: Link, plan: Plan, runs: Sequence[dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    mine = [run[contender.name] for run in runs]
    middle = {key: statistics.median(run[key] for run in mine) for key in mine[0]}
    bounds = _bounds(contender, link, plan, BytesPerFrame(middle["bytes_up"], middle["bytes_down"]))
    limit = min(bounds, key=lambda name: bounds[name])
    return {
        "link": str(link),
        "up_mbit": link.up_mbit,
        "down_mbit": link.down_mbit,
        "round_trip_ms": round(link.round_trip_s * 1e3, 3),
        "bundle": contender.name,
        "fps": round(middle["fps"], 3),
        "fps_of_runs": [round(run["fps"], 3) for run in mine],
        "frames_of_runs": [run["frames"] for run in mine],
        "latency_ms": {name: round(middle[name] * 1e3, 1) for name in ("p50", "p95")},
        "bytes_up_per_frame": round(middle["bytes_up"]),
        "bytes_down_per_frame": round(middle["bytes_down"]),
        "bound_fps": {name: round(value, 3) for name, value in bounds.items()},
        "lowest_bound": limit,
        "share_of_bound": round(middle["fps"] / bounds[limit], 3),
        "processor_ms_per_frame": {
            name: round(middle[f"cpu_{name}"] * 1e3, 1) for name in ("edge", "sites", "line")
        },
        "busiest_thread": round(middle["busiest"], 2),
        "cores_busy_with_other_things": round(middle["others"], 2),
        **compared([run[first] for run in runs], mine),
    }


def compared(first: Sequence[dict[str, Any]], mine: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of runs that followed each other: the median, the least and the largest."""
    fps = [run["fps"] / base["fps"] for base, run in zip(first, mine, strict=True)]
    latency = [run["p50"] / base["p50"] for base, run in zip(first, mine, strict=True)]
    return {"times_first_fps": _spread(fps), "times_first_latency": _spread(latency)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "least": min(values), "largest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def links(rates: Sequence[tuple[float, float]], round_trips_ms: Sequence[float]) -> Iterator[Link]:
    """Every rate, up and down in Mbit/s, with every round trip."""
    for up, down in rates:
        for round_trip_ms in round_trips_ms:
            yield Link(up, down, round_trip_ms / 1e3)
