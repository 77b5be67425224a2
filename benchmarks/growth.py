"""What more sites, objects, pixels and frames in flight cost: frames a second, latency, processor, bytes.

    python -m benchmarks.growth --out benchmarks/results/growth.json --picture benchmarks/results/growth.png

The edge is real: `pedsam run` without its command line, mini's own engines on one thread, objects that are
followed. The sites are real but for their engines, so that this machine's cores do not decide what six sites
give: a window that a site has seen takes a fixed time, in which it computes nothing, and is answered as the
window stage answered it before. The film goes back and forth over a few frames, all of which every site sees
before anything is measured.

A panel changes one thing and leaves the others as in USUAL. Processor time is the edge's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import click
import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.cpu_time import CpuTimes, cpu_times
from benchmarks.machine import OTHERS, describe, where
from benchmarks.sentences import check_out, sentences
from benchmarks.site_requests import ServerProcess
from runtime.demo.demo import BACKEND, photo
from runtime.frames.sources import Frame, Source
from runtime.live.interface import Live
from runtime.objects.prompts import Prompt, Prompts
from runtime.pipeline import PipelineOptions
from runtime.results.result import FrameResult
from runtime.run_options import RunOptions
from runtime.session import run_session
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.files import writing
from stages.tensors import Array, Pixels

WINDOW_S = 0.015  # a site's for one window that it has seen
STEPS = 6  # frames of the film that differ
WARM_UP = 2 * STEPS  # frames before anything is measured: there and back
FRAMES = 30  # that are measured


@dataclass(frozen=True)
class Setting:
    """One run. `size` is a frame's width and height."""

    sites: int = 3
    objects: int = 1
    size: tuple[int, int] = (1280, 720)
    in_flight: int = 3

    def of(self, axis: str) -> str:
        """Its value on an axis, for people."""
        value = getattr(self, axis)
        return f"{value[0]} x {value[1]}" if axis == "size" else str(value)


USUAL = Setting()
AXES: Mapping[str, Sequence[Any]] = {
    "sites": (1, 2, 3, 4, 6),
    "objects": (1, 2, 8, 32),
    "size": ((320, 180), (1280, 720), (1920, 1080), (3840, 2160)),
    "in_flight": (1, 2, 3, 4, 6),
}
TITLES = {
    "sites": "sites",
    "objects": "objects",
    "size": "frame size",
    "in_flight": "frames in flight",
}


class RepeatingEngine(Engine):
    """The window stage, which takes `window_s` for a window that it has seen before and computes nothing."""

    def __init__(self, bundle: Bundle, window_s: float) -> None:
        super().__init__(bundle.stage("window"))
        self._stage = make_engine(bundle, "window", BACKEND, 1)
        self._window_s = window_s
        self._known: dict[bytes, dict[str, Array]] = {}

    @property
    def backend(self) -> str:
        return f"{1e3 * self._window_s:.0f} ms a window"

    @property
    def preferred_batch(self) -> int:
        return 8

    def _activate(self) -> None:
        self._stage.open()

    def _deactivate(self) -> None:
        self._stage.close()

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        ends_s = time.perf_counter() + self._window_s * len(next(iter(feeds.values())))
        keys = [b"".join(row.tobytes() for row in rows) for rows in zip(*feeds.values(), strict=True)]
        for number, key in enumerate(keys):
            if key not in self._known:
                one = {name: np.ascontiguousarray(rows[number : number + 1]) for name, rows in feeds.items()}
                self._known[key] = self._stage.infer(one)
        time.sleep(max(0.0, ends_s - time.perf_counter()))
        return {name: np.concatenate([self._known[key][name] for key in keys]) for name in outputs}


def _site(path: Path, ready: Connection) -> None:
    async def run() -> None:
        make = partial(RepeatingEngine, window_s=WINDOW_S)
        async with running_site(Bundle.load(path), ServeOptions(port=0), make) as site:
            ready.send(site.url)
            await asyncio.Event().wait()

    asyncio.run(run())


class Pan(Source):
    """A photograph that moves sideways, back and forth, `count` frames of it from memory."""

    is_sequence = True

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count = count
        width, height = size
        whole = Image.fromarray(photo("coffee")[: 600 * height // width])
        still = np.asarray(whole.resize(size, Image.Resampling.BICUBIC))
        self._pictures: list[Pixels] = [np.roll(still, step * width // 200, axis=1) for step in range(STEPS)]

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({self._pictures[0].shape[:2]})

    def __iter__(self) -> Iterator[Frame]:
        turn = 2 * (STEPS - 1)
        for number in range(self.count or 0):
            step = min(number % turn, turn - number % turn)
            yield Frame(number, f"{number:04}", float(number), self._pictures[step])


def prompts(objects: int, size: tuple[int, int]) -> Prompts:
    """The cup so many times, each by a box of its own: 1/1000 of the frame further to the right."""
    width, height = size
    return Prompts(
        tuple(
            Prompt(
                f"cup {n}", ((0.234 + n / 1e3) * width, height / 6, (0.703 + n / 1e3) * width, height / 1.2)
            )
            for n in range(objects)
        )
    )


@dataclass
class Measured:
    """The frames that were shown between two moments, and those moments."""

    sites: Sequence[int]
    last: int
    marks: list[tuple[int, float, CpuTimes]] = field(default_factory=list)  # frame, edge's processor time
    shown: list[FrameResult] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def watch(self, live: Live) -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._see, live)
            yield "measuring"
            tasks.cancel_scope.cancel()

    async def _see(self, live: Live) -> None:
        version = 0
        for wanted in (WARM_UP, self.last):
            while True:
                version, shown = await live.frames.after(version)
                self.shown += [shown] if self.marks else []
                if shown.number >= wanted:
                    break
            self.marks.append((shown.number, time.process_time(), cpu_times([os.getpid(), *self.sites])))

    def facts(self) -> dict[str, Any]:
        """Raises ClickException for a run that was stopped before its last frame."""
        if len(self.marks) < 2:
            raise click.ClickException("a run was stopped before its last frame, so nothing was written")
        (first, edge_s, before), (end, edge_end_s, after) = self.marks
        latency_s = [shown.latency_s for shown in self.shown]
        return {
            "frames": end - first,
            "fps": round((end - first) / (after.at_s - before.at_s), 2),
            "latency_ms": {f"p{n}": round(1e3 * float(np.percentile(latency_s, n)), 1) for n in (50, 95)},
            "edge_processor_ms": round(1e3 * (edge_end_s - edge_s) / (end - first), 2),
            "objects_found": round(statistics.fmean(_found(shown) for shown in self.shown), 2),
            OTHERS: round(after.cores_of_others_since(before), 2),
        }


def _found(shown: FrameResult) -> int:
    return sum(each.mask is not None for each in shown.objects)


def _sites_file(folder: Path, urls: Sequence[str]) -> Path:
    tables = [f'[[site]]\nname = "{n}"\noperator = "{n}"\nurl = "{url}"\n' for n, url in enumerate(urls)]
    path = folder / f"sites-{len(urls)}.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def run(bundle: Bundle, setting: Setting, sites: Sequence[ServerProcess], folder: Path) -> dict[str, Any]:
    """What a film costs with one setting."""
    used = sites[: setting.sites]
    count = WARM_UP + FRAMES + 2 * setting.in_flight + 2  # at the end stages idle
    options = RunOptions(
        sites=_sites_file(folder, [site.url for site in used]),
        backend=BACKEND,
        threads=1,
        new_session=True,
        allow_undistilled=True,
        record=False,
        accept_exposure=True,
        pipeline=PipelineOptions(setting.in_flight),
    )
    measured = Measured([site.pid for site in used], WARM_UP + FRAMES)
    film = Pan(count, setting.size)
    asked = prompts(setting.objects, setting.size)
    console = Console(file=io.StringIO())
    summary = asyncio.run(run_session(bundle, film, asked, options, console, [measured.watch]))
    traffic = {way: summary[f"bytes_{way}"] + summary[f"head_bytes_{way}"] for way in ("up", "down")}
    return {
        **measured.facts(),
        **{f"bytes_{way}": round(size / count) for way, size in traffic.items()},
        "windows": summary["windows_sent_per_frame"],
        "windows_run_at_edge": summary["windows_run_at_edge"],
        "frames_lost": summary["frames_lost"],
        "limited_by": summary["limited_by"],
    }


def measure(bundle: Bundle, axes: Mapping[str, Sequence[Any]] = AXES) -> dict[str, Any]:
    """All runs, one after the other."""
    machine = describe()  # what is measured is what was there at the beginning
    rows: dict[str, list[dict[str, Any]]] = {axis: [] for axis in axes}
    most = max(axes.get("sites", (USUAL.sites,)))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sites = [stack.enter_context(ServerProcess(partial(_site, bundle.path))) for _ in range(most)]
        for axis, values in axes.items():
            for value in values:
                setting = replace(USUAL, **{axis: value})
                rows[axis].append({"value": setting.of(axis), **run(bundle, setting, sites, Path(folder))})
                click.echo(json.dumps({axis: rows[axis][-1]}), err=True)
    return {
        "machine": machine,
        "model": bundle.description,
        "window_ms": 1e3 * WINDOW_S,
        "usual": {axis: USUAL.of(axis) for axis in axes},
        "rows": rows,
    }


def sentence(axis: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the first and the last row of a panel say."""
    first, last = rows[0], rows[-1]
    latencies = [f"{row['latency_ms']['p50']:.0f}" for row in (first, last)]
    processor = [f"{row['edge_processor_ms']:.0f}" for row in (first, last)]
    return (
        f"{TITLES[axis].capitalize()}: from {first['value']} to {last['value']}, frames a second go from "
        f"{first['fps']:.1f} to {last['fps']:.1f}, the median latency from {' to '.join(latencies)} ms, the "
        f"edge's processor from {' to '.join(processor)} ms a frame, and {_of_bytes(first, last)}; "
        f"{_limits(first, last)}."
    )


def _of_bytes(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    sizes = [(row["bytes_up"] + row["bytes_down"]) / 1e3 for row in (first, last)]
    if abs(sizes[1] / sizes[0] - 1) < 0.02:
        return f"a frame stays at {sizes[0]:.0f} KB up and down together"
    return f"a frame from {sizes[0]:.0f} to {sizes[1]:.0f} KB up and down together"


def _limits(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    limits = [_limit(row) for row in (first, last)]
    if limits[0] == limits[1]:
        return f"all that is limited by {limits[0]}"
    return f"limited first by {limits[0]}, at the end by {limits[1]}"


def _limit(row: Mapping[str, Any]) -> str:
    """What limits a run, without its numbers: where cores are all busy that, and then the longest step."""
    parts = row["limited_by"].split("; the longest step is ")
    return ", then ".join(re.split("[,:(]", part)[0].strip() for part in parts)


def markdown(result: Mapping[str, Any]) -> str:
    """A table of all runs, what it was measured on, and a sentence on each panel."""
    usual = ", ".join(f"{TITLES[axis]} {value}" for axis, value in result["usual"].items())
    lines = [
        "| | | frames/s | latency p50 / p95, ms | edge's processor, ms a frame | KB a frame, up / down "
        "| limited by | cores busy with other things |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for axis, rows in result["rows"].items():
        lines += [f"| {TITLES[axis]} | {_cells(row)} |" for row in rows]
    lines += ["", f"Otherwise {usual}. {result['model']}, {where(result['machine'])}.", ""]
    return "\n".join(lines + [f"- {sentence(axis, rows)}" for axis, rows in result["rows"].items()])


def _cells(row: Mapping[str, Any]) -> str:
    latency = row["latency_ms"]
    return " | ".join(
        [
            row["value"],
            f"{row['fps']:.1f}",
            f"{latency['p50']:.0f} / {latency['p95']:.0f}",
            f"{row['edge_processor_ms']:.0f}",
            f"{row['bytes_up'] / 1e3:.1f} / {row['bytes_down'] / 1e3:.1f}",
            _limit(row),
            f"{row[OTHERS]:.1f}",
        ]
    )


def draw(result: Mapping[str, Any], picture: Path) -> None:
    """Frames a second and latency in a panel for each axis, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (axis, rows) in zip(figure.subplots(2, 2).flat, result["rows"].items(), strict=False):
        values = [row["value"] for row in rows]
        (bars,) = axes.plot(values, [row["fps"] for row in rows], "o-", color="tab:blue")
        right = axes.twinx()
        latencies = [[row["latency_ms"][name] for row in rows] for name in ("p50", "p95")]
        (line,) = right.plot(values, latencies[0], "s--", color="tab:orange")
        right.plot(values, latencies[1], ":", color="tab:orange")
        axes.set(title=TITLES[axis], ylabel="frames/s", ylim=(0, None))
        right.set(ylabel="latency p50 (dashed), p95 (dotted), ms", ylim=(0, None))
        axes.yaxis.label.set_color(bars.get_color())
        right.yaxis.label.set_color(line.get_color())
        axes.grid(alpha=0.3)
    figure.suptitle(f"{result['model']}, {where(result['machine'])}", fontsize=10)
    with writing(picture):
        figure.savefig(picture, dpi=80, format="png")


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--picture", type=click.Path(path_type=Path), help="The same as four panels, PNG.")
def main(bundle: Path | None, out: Path, picture: Path | None) -> None:
    """Measure all panels, in about three minutes."""
    check_out(out)
    result = measure(Bundle.load(bundle or shipped_bundle()))
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if picture:
        draw(result, picture)
    click.echo(markdown(result))


if __name__ == "__main__":
    with sentences():
        main()
