"""What it gains to begin with the global stage while windows are on their way: of the engine, of a frame.

    python -m benchmarks.streaming (--bundle B | --model vit_b) --out FILE.json [--picture FILE.png]

A frame is 16:9. Its 15 windows belong to three sites, which compute their own one after the other; the
embeddings come a round trip later. That schedule is slept, not sent: what is measured is the edge's own
`runtime.global_stage` with the real engine. `--model` writes the global stage and its parts with random
weights, since no other stage is run.

The two forms take turns. Seconds are of the clock, and of the processor, which a busy machine changes less:
`computed` is a frame by the processor's, as it would be on an idle machine, and so is the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe, where
from benchmarks.sentences import sentences
from media.pictures import write_picture
from runtime.encoder import streaming_of
from runtime.encoder_choice import STREAMING, WHOLE
from runtime.global_stage import GlobalStage, StreamedGlobal, WholeGlobal
from stages.bundle import EDGE_FOLDER, PADDING_FILE, Bundle, hash_files
from stages.engines.backends import make_engine, make_streaming_engine
from stages.engines.engine import Engine
from stages.engines.streaming_engine import StreamingEngine
from stages.engines.thread import EngineThread
from stages.geometry import GEOMETRIES
from stages.tensors import Array

CPU = "onnxruntime-cpu"
FRAME = (1080, 1920)
SITES = "ACACBBCBABAABCC"  # of the 15 windows of a 16:9 frame, as the demo assigns them
ROUND_TRIPS_S = (0.005, 0.020, 0.080)
TILE_S = {"mini": 0.004}  # what a site takes for a window; of larger models LARGE_TILE_S
LARGE_TILE_S = 0.020
SHOWN = "20 ms, one site slow"  # in the picture
SLOW = 5  # times that, of the slow site of the last schedule

Seconds = tuple[float, float]  # of the clock, of the processor


@dataclass(frozen=True)
class Schedule:
    """When the embedding of each window comes, in seconds from a frame's beginning."""

    name: str
    arrivals_s: Mapping[int, float]

    @classmethod
    def of(cls, name: str, rtt_s: float, tile_s: float, slow: str = "") -> Schedule:
        busy_s = dict.fromkeys(SITES, 0.0)
        arrivals_s = {}
        for window, site in enumerate(SITES):
            busy_s[site] += tile_s * (SLOW if site == slow else 1)
            arrivals_s[window] = rtt_s + busy_s[site]
        return cls(name, arrivals_s)

    def rows_s(self, grid: int) -> dict[int, float]:
        """When each row of windows is complete."""
        rows: dict[int, float] = {}
        for window, at_s in self.arrivals_s.items():
            rows[window // grid] = max(at_s, rows.get(window // grid, 0.0))
        return rows


def schedules(tile_s: float) -> list[Schedule]:
    even = [Schedule.of(f"{1e3 * rtt_s:.0f} ms", rtt_s, tile_s) for rtt_s in ROUND_TRIPS_S]
    return [*even, Schedule.of(SHOWN, 0.020, tile_s, slow="B")]


def taken(step: Callable[[], object]) -> Seconds:
    clock_s, processor_s = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock_s, time.process_time() - processor_s


def run_parts(engine: StreamingEngine, embeddings: Array, blank: Sequence[int]) -> list[tuple[str, Seconds]]:
    """Of each part for one frame, in the order they run, rows from the top; `blank` ones are kept."""
    frame, grid = engine.start(blank), engine.grid
    parts: list[tuple[str, Seconds]] = []
    for row in sorted(set(range(grid)).difference(blank)):
        frame.add(row, embeddings[row * grid : (row + 1) * grid])
        while frame.more:
            names: list[str] = []
            seconds = taken(lambda names=names: names.append(engine.advance(frame)))  # type: ignore[misc]
            parts.append((names[0].split()[0], seconds))
    parts.append(("finish", taken(lambda: engine.finish(frame))))
    return parts


@contextmanager
def opened(engine: Any) -> Iterator[Any]:
    engine.open()
    try:
        yield engine
    finally:
        engine.close()


def engine_times(bundle: Bundle, runs: int) -> dict[str, Any]:
    """The engine's seconds for one frame on one thread. Both engines are open, and take turns."""
    g, embeddings = bundle.geometry, bundle.padding_embeddings()
    blank = sorted(set(range(g.grid)) - {w // g.grid for w in g.windows_with_picture(*FRAME)})
    found: dict[str, list[Seconds]] = {}
    with (
        opened(make_engine(bundle, "global", CPU, 1)) as whole,
        opened(make_streaming_engine(bundle, CPU, 1)) as streaming,
    ):
        whole.infer({"embedding": embeddings})
        run_parts(streaming, embeddings, blank)
        for _ in range(runs):
            found.setdefault("whole", []).append(taken(lambda: whole.infer({"embedding": embeddings})))
            parts = run_parts(streaming, embeddings, blank)
            last = max(i for i, (part, _) in enumerate(parts) if part == "project")
            found.setdefault("streaming", []).append(total(parts))
            found.setdefault("left", []).append(total(parts[last:]))
            for part, seconds in parts:
                found.setdefault(part, []).append(seconds)
    return {name: in_short(values) for name, values in found.items()} | {
        "streaming_of_whole": ratio(found["streaming"], found["whole"]),
        "left_of_whole": ratio(found["left"], found["whole"]),
    }


def total(parts: Sequence[tuple[str, Seconds]]) -> Seconds:
    clock_s, processor_s = (sum(seconds[axis] for _, seconds in parts) for axis in (0, 1))
    return clock_s, processor_s


def in_short(values: Sequence[Seconds]) -> dict[str, Any]:
    """The median of the clock and of the processor, and the least of the latter, in ms."""
    clock_s, processor_s = zip(*values, strict=True)
    return {
        "clock_ms": round(1e3 * statistics.median(clock_s), 2),
        "processor_ms": round(1e3 * statistics.median(processor_s), 2),
        "processor_least_ms": round(1e3 * min(processor_s), 2),
        "calls": len(values),
    }


def ratio(ones: Sequence[Seconds], others: Sequence[Seconds]) -> dict[str, float]:
    """Of the processor's seconds, turn by turn: the median and the quartiles."""
    ratios = [one / other for (_, one), (_, other) in zip(ones, others, strict=True)]
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return {"median": round(float(middle), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


@dataclass
class OneFrame:
    """A frame's timeline in seconds from its beginning: what the engine did and when, and the end."""

    schedule: Schedule
    parts: list[tuple[str, float, float]] = field(default_factory=list)
    end_s: float = 0.0

    @property
    def after_last_s(self) -> float:
        """From the last window to the image embedding."""
        return self.end_s - max(self.schedule.arrivals_s.values())


@asynccontextmanager
async def opened_form(bundle: Bundle, form: str) -> AsyncIterator[EngineThread]:
    make: Callable[..., Engine] = make_streaming_engine
    factory = (
        partial(make, bundle, CPU, 1) if form == STREAMING else partial(make_engine, bundle, "global", CPU, 1)
    )
    async with EngineThread({"global": factory}) as engines:
        yield engines


async def one_frame(bundle: Bundle, engines: EngineThread, schedule: Schedule) -> OneFrame:
    """A frame whose windows come as scheduled, through the edge's own global stage."""
    frame, embeddings, engine = OneFrame(schedule), bundle.padding_embeddings(), streaming_of(engines)
    began_s = time.perf_counter()

    def note(part: str, _: int, start_s: float, end_s: float) -> None:
        frame.parts.append((part, start_s - began_s, end_s - began_s))

    stage: GlobalStage
    if engine is None:
        stage = WholeGlobal(engines, embeddings, 0)
    else:
        stage = StreamedGlobal(engines, engine, embeddings, schedule.arrivals_s, 0, note)

    async def come(window: int, at_s: float) -> None:
        await anyio.sleep(max(0.0, at_s - (time.perf_counter() - began_s)))
        stage.arrived(window)

    async with anyio.create_task_group() as ahead:
        ahead.start_soon(stage.work)
        async with anyio.create_task_group() as windows:
            for window, at_s in schedule.arrivals_s.items():
                windows.start_soon(come, window, at_s)
        ahead.cancel_scope.cancel()
    started_s = time.perf_counter() - began_s
    await stage.finish()
    frame.end_s = time.perf_counter() - began_s
    frame.parts.append(("whole" if engine is None else "left", started_s, frame.end_s))
    return frame


async def frames(bundle: Bundle, each: Schedule, runs: int) -> dict[str, Any]:
    """Milliseconds of the clock from a frame's last window to its embedding; forms take turns."""
    ms: dict[str, list[float]] = {WHOLE: [], STREAMING: []}
    warm = Schedule("warm", dict.fromkeys(each.arrivals_s, 0.0))
    for _ in range(runs):
        for form, values in ms.items():
            async with opened_form(bundle, form) as engines:
                await one_frame(bundle, engines, warm)
                values.append(1e3 * (await one_frame(bundle, engines, each)).after_last_s)
    hidden = [one - other for one, other in zip(ms[WHOLE], ms[STREAMING], strict=True)]
    measured = {f"after_last_window_ms_{form}": round(statistics.median(v), 1) for form, v in ms.items()}
    return {
        **measured,
        "hidden_ms": round(statistics.median(hidden), 1),
        "hidden_ms_quartiles": [round(float(value), 1) for value in np.percentile(hidden, (25, 75))],
    }


def computed(schedule: Schedule, grid: int, engine: Mapping[str, Any]) -> dict[str, OneFrame]:
    """A frame in both forms by the processor's time of each part, for an engine that nothing else delays.

    Each part begins when its rows have come and the part before has ended.
    """
    seconds = {name: engine[name]["processor_ms"] / 1e3 for name in ("whole", "project", "attend", "finish")}
    last_s, rows_s = max(schedule.arrivals_s.values()), schedule.rows_s(grid)
    whole, streaming = OneFrame(schedule, end_s=last_s + seconds["whole"]), OneFrame(schedule)
    whole.parts.append(("whole", last_s, whole.end_s))
    there = grid - len(rows_s)  # rows that have come; those of padding first
    for at_s in sorted(rows_s.values()):
        there += 1
        for part in ("project", *["attend"] * (2 * there - 1)):
            start_s = max(streaming.end_s, at_s)
            streaming.end_s = start_s + seconds[part]
            streaming.parts.append((part if start_s < last_s else "left", start_s, streaming.end_s))
    start_s, streaming.end_s = streaming.end_s, streaming.end_s + seconds["finish"]
    streaming.parts.append(("left", start_s, streaming.end_s))
    return {WHOLE: whole, STREAMING: streaming}


def in_ms(forms: Mapping[str, OneFrame]) -> dict[str, float]:
    ms = {f"after_last_window_ms_{form}": round(1e3 * one.after_last_s, 1) for form, one in forms.items()}
    return ms | {"hidden_ms": round(1e3 * (forms[WHOLE].after_last_s - forms[STREAMING].after_last_s), 1)}


def random_bundle(model: str, path: Path) -> Bundle:
    """The global stage of a model and its parts with random weights, and random embeddings for padding."""
    from export.checks.parity import check_streaming
    from export.exporter import ExportOptions, empty_bundle, write_part, write_stage
    from export.sam import Weights, build_sam, randomise
    from export.stages import stage_plans, streaming_plans

    geometry = GEOMETRIES[model]
    sam = build_sam(geometry)
    randomise(sam)
    weights = Weights(sam, geometry, "untrained", "random numbers")
    bundle = empty_bundle(weights, geometry, path, ExportOptions())
    plans = {plan.name: plan for plan in stage_plans(sam, geometry, "float16")}
    bundle = write_stage(bundle, plans["global"], plans["global"].build())
    for plan in streaming_plans(sam, geometry, "float16", "fp32"):
        bundle = write_part(bundle, plan, plan.build().eval())
    (path / EDGE_FOLDER).mkdir()
    shape = (geometry.windows, *bundle.embedding_shape)
    np.save(path / PADDING_FILE, np.random.default_rng(0).standard_normal(shape).astype(np.float16))
    bundle = replace(bundle, edge_files=hash_files(path, [PADDING_FILE]))
    return replace(bundle, parity=check_streaming(bundle, print))


def timeline(forms: Mapping[str, OneFrame], title: str) -> npt.NDArray[np.uint8]:
    """One frame, before and after: windows as they come, and the engine. RGB uint8 [H, W, 3]."""
    width, left, row, end_s = 1500, 190, 34, max(frame.end_s for frame in forms.values())
    lines = 2 + len(forms) * 5
    image = np.full((row * lines, width, 3), 255, np.uint8)
    scale = (width - left - 20) / end_s

    def text(words: str, at: int, line: int) -> None:
        place = (at, line * row + 22)
        cv2.putText(image, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)

    def bar(line: int, start_s: float, stop_s: float, colour: tuple[int, int, int]) -> None:
        first, last = (left + round(at_s * scale) for at_s in (start_s, stop_s))
        image[line * row + 5 : (line + 1) * row - 5, first : max(last, first + 2)] = colour
        image[line * row + 5 : (line + 1) * row - 5, first : first + 1] = 60

    text(title, 10, 0)
    for number, (form, frame) in enumerate(forms.items()):
        top = 1 + 5 * number
        text(
            f"--encoder {form}: {1e3 * frame.end_s:.0f} ms, "
            f"{1e3 * frame.after_last_s:.0f} after the last window",
            left,
            top,
        )
        for index, site in enumerate("ABC"):
            text(f"windows of site {site}", 10, top + 1 + index)
            before_s = 0.0
            for window, at_s in frame.schedule.arrivals_s.items():
                if SITES[window] == site:
                    bar(top + 1 + index, before_s, at_s, (200, 215, 240))
                    before_s = at_s
        text("the edge's engine", 10, top + 4)
        for part, start_s, stop_s in frame.parts:
            bar(top + 4, start_s, stop_s, (235, 150, 80) if part in ("whole", "left") else (120, 190, 120))
    text("green: ahead of the last window; orange: after it", left, lines - 1)
    return image


def markdown(*results: Mapping[str, Any]) -> str:
    """The engine's times and what they hide of a frame, a column for each file, and where it was measured."""
    names = [result["model"] for result in results]

    def row(label: str, cell: Callable[[Mapping[str, Any]], str]) -> str:
        return f"| {label} | {' | '.join(cell(result) for result in results)} |"

    def share(name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda result: "{median:.2f} ({low:.2f} to {high:.2f})".format(**result["engine"][name])

    rule = f"| --- |{' --- |' * len(results)}"
    lines = [
        f"| | {' | '.join(names)} |",
        rule,
        row("the whole stage, processor ms", lambda r: f"{r['engine']['whole']['processor_ms']:.0f}"),
        row("row by row, of that", share("streaming_of_whole")),
        row("left of it when the last row has come, of that", share("left_of_whole")),
        row("kept of rows without picture, ms", lambda r: f"{r['kept_of_padding_ms']:.0f}"),
        "",
        f"| round trip | {' | '.join(f'{name}: hidden, ms' for name in names)} |",
        rule,
    ]
    for number, each in enumerate(results[0]["frames"]):
        lines.append(row(each["round_trip"], partial(_hidden, number)))
    measured = [
        f"- {name}, {result['weights']} weights: {where(result['machine'])}"
        for name, result in zip(names, results, strict=True)
    ]
    return "\n".join([*lines, "", *measured])


def _hidden(number: int, result: Mapping[str, Any]) -> str:
    """As computed, and where frames were timed by the clock, with their quartiles."""
    frame = result["frames"][number]
    cell = f"{frame['computed']['hidden_ms']:.0f} computed"
    if timed := frame.get("measured"):
        low, high = timed["hidden_ms_quartiles"]
        cell += f", {timed['hidden_ms']:.0f} timed ({low:.0f} to {high:.0f})"
    return cell


async def measure(bundle: Bundle, runs: int, of_frames: int, picture: Path | None) -> dict[str, Any]:
    machine = describe() | {"load_average": os.getloadavg()[0]}
    engine, grid = engine_times(bundle, runs), bundle.geometry.grid
    tile_s = TILE_S.get(bundle.geometry.name, LARGE_TILE_S)
    results = []
    for each in schedules(tile_s):
        forms = computed(each, grid, engine)
        found: dict[str, Any] = {"round_trip": each.name, "computed": in_ms(forms)}
        if of_frames:
            found["measured"] = await frames(bundle, each, of_frames)
        results.append(found)
        print(json.dumps(found), flush=True)
        if picture is not None and each.name == SHOWN:
            title = f"One 16:9 frame of {bundle.geometry.name}, round trip {each.name}; computed, one thread"
            write_picture(picture, timeline(forms, title))
    return {
        "machine": machine,
        "model": bundle.geometry.name,
        "weights": bundle.weights,
        "parity": dict(bundle.parity),
        "threads": 1,
        "runs": runs,
        "frames_a_form": of_frames,
        "site_ms_per_window": 1e3 * tile_s,
        "engine": engine,
        "kept_of_padding_ms": 2 * engine["project"]["processor_ms"] + 4 * engine["attend"]["processor_ms"],
        "frames": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--bundle", type=Path)
    given.add_argument("--model", choices=sorted(GEOMETRIES))
    parser.add_argument("--runs", type=int, default=5, help="of the engine alone")
    parser.add_argument("--frames", type=int, default=5, help="of each form and schedule; 0: computed alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.load(options.bundle) if options.bundle else random_bundle(options.model, Path(folder))
        results = anyio.run(measure, bundle, options.runs, options.frames, options.picture)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with sentences():
        main()
