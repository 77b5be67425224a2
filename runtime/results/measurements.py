"""What a run measures, in memory that does not grow: single values of the last frames only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from runtime.results.processor import Load, Processor
from runtime.sites.traffic import Traffic

RECENT = 1000  # values that percentiles are taken of
RECENT_S, RECENT_FRAMES = 3.0, 4  # figures of a running pipeline are taken over the longer of both
_MAX_LOST_REASONS = 100  # lost frames that are reported one by one
_MAX_OBJECTS = 1000  # the first ones, of which it is known whether they were found
STEPS = ("read", "keep", "windows", "global", "track", "decode", "write")
AHEAD = "ahead"  # what the engine did of a frame's global stage before its last window came
QUEUE = "queue"  # what a frame waited between its windows and being written, for engines and threads
EDGE_WINDOWS = "edge_windows"  # what the edge's engine took for windows between a frame and the one before
WAITS = ("camera", "pace")  # what the reading step waits for: the next picture, and the limits asked for


class Series:
    """Numbers one after another: the `count` of all, `recent` the last ones, `at_s` when those were added."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.count = 0
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.at_s: deque[float] = deque(maxlen=RECENT)
        for value in values:
            self.add(value)

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, value: float, at_s: float | None = None) -> None:
        """One more, of now or of another time.perf_counter()."""
        self.count += 1
        self.recent.append(value)
        self.at_s.append(time.perf_counter() if at_s is None else at_s)

    def since(self, start_s: float) -> Series:
        """Those of the last numbers that were added from then on, by time.perf_counter()."""
        return Series(value for value, at_s in zip(self.recent, self.at_s, strict=True) if at_s >= start_s)

    @property
    def recent_mean(self) -> float:
        """Of the last numbers; 0 of none."""
        return float(np.mean(self.recent)) if self.recent else 0.0

    def percentiles(self) -> dict[str, float]:
        """p50 and p95 of the last numbers, of which there is at least one."""
        p50, p95 = np.percentile(self.recent, [50, 95])
        return {"p50": float(p50), "p95": float(p95)}


class Lost:
    """Frames that were lost: how many, and why the last ones were."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """One more, by its frame's name."""
        self.count += 1
        self.reasons[name] = reason
        if len(self.reasons) > _MAX_LOST_REASONS:
            del self.reasons[next(iter(self.reasons))]


@dataclass
class WindowStatistics:
    """Counts of a run's windows over its `canvases`, those computed again for a late click among them:
    `windows_reused` had not changed, `local_windows` ran at the edge for want of a site, `kept_windows` since
    they never leave, `redispatched` went elsewhere after a failure, `hedged` were sent to a second site for
    being late."""

    canvases: int = 0
    windows_sent: int = 0
    windows_skipped: int = 0
    windows_reused: int = 0
    local_windows: int = 0
    kept_windows: int = 0
    redispatched: int = 0
    hedged: int = 0


@dataclass
class RunMeasurements:
    """What a run measured. `seconds` per step, wait, AHEAD, QUEUE, EDGE_WINDOWS and "end_to_end" hold one
    value a frame that got through it; those of "global" and "decode" are of the engine alone, those of
    "track" of following objects.

    Of `frames` that were finished, `unsegmented` ones had nothing to be segmented or came while sending was
    paused, and `carried` ones had their masks moved along. Windows of `in_flight` frames were under way at
    once; `sequential_engines` says that global stage and decoder of a frame ran before those of the next.
    `objects` were looked for, by name; True are those that a frame showed. `traffic` is what went to sites
    and came from them in `wall_s`.
    """

    seconds: dict[str, Series] = field(
        default_factory=lambda: {
            name: Series() for name in (*STEPS, AHEAD, QUEUE, EDGE_WINDOWS, *WAITS, "end_to_end")
        }
    )
    frames: int = 0
    unsegmented: int = 0
    carried: int = 0
    lost: Lost = field(default_factory=Lost)
    wall_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)
    in_flight: int = 1
    sequential_engines: bool = False
    done_s: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    objects: dict[str, bool] = field(default_factory=dict)
    processor: Processor = field(default_factory=Processor)

    def limited_by(self, through_sites: bool, recent: bool = False) -> str:
        """What bounds the frames per second: of the run, or of its last seconds."""
        seconds = self.recent_seconds() if recent else self.seconds
        load = self.processor.load(self._recent_start_s() if recent else 0.0)
        return limited_by(seconds, through_sites, self.in_flight, self.sequential_engines, load)

    def note_objects(self, objects: Mapping[str, bool]) -> None:
        """The objects of one more frame, by name, and whether each was found there."""
        for name, found in objects.items():
            if name in self.objects or len(self.objects) < _MAX_OBJECTS:
                self.objects[name] = found or self.objects.get(name, False)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds the block took, if it did not fail."""
        started = time.perf_counter()
        yield
        self.seconds[name].add(time.perf_counter() - started)

    def recent_seconds(self) -> dict[str, Series]:
        """The newest of the `seconds`: what a run does now, not what it did before somebody clicked."""
        start_s = self._recent_start_s()
        return {name: series.since(start_s) for name, series in self.seconds.items()}

    def fps(self) -> float:
        """Frames a second of the last frames, 0 when none has come for three seconds."""
        start_s = self._recent_start_s()
        done_s = [at_s for at_s in self.done_s if at_s >= start_s]
        if len(done_s) < 2 or time.perf_counter() - done_s[-1] > RECENT_S:
            return 0.0
        return (len(done_s) - 1) / max(done_s[-1] - done_s[0], 1e-9)

    def _recent_start_s(self) -> float:
        if len(self.done_s) <= RECENT_FRAMES:
            return 0.0
        return min(time.perf_counter() - RECENT_S, self.done_s[-RECENT_FRAMES - 1])


_WHERE = {
    "read": "reading and resizing frames",
    "keep": "looking for what is kept at the edge",
    "windows": "the window stage at the sites",
    "masks": "following objects and decoding their masks",
    "after windows": "global stage, following and mask decoder, one after another",
    "write": "drawing and writing results",
    "camera": "the source, which gives no frames faster",
    "pace": "--max-fps or --max-mbit",
}


def limited_by(
    seconds: Mapping[str, Series],
    through_sites: bool,
    in_flight: int = 1,
    sequential_engines: bool = False,
    load: Load | None = None,
) -> str:
    """What bounds the frames per second: cores that are all busy, and the step that is busy longest with a
    frame, or what reading waits for.

    A step that only some frames need counts by their share of the frames read. `in_flight` is for how many
    frames at once the window stage works; `sequential_engines` as RunMeasurements has it. The edge's engines
    share a thread, so that they count together.
    """
    if not any(seconds[name] for name in STEPS):
        return "nothing: no frame was completed"
    frames = seconds["read"].count or 1
    busy = {name: each.recent_mean * each.count / frames for name, each in seconds.items()}
    engines = {
        "window stage": busy[EDGE_WINDOWS],
        "global stage": busy["global"] + busy[AHEAD],
        "mask decoder": busy["decode"],
    }
    reading = ("read", *WAITS)
    held = {
        "read": sum(busy[name] for name in reading),
        "keep": busy["keep"],
        "windows": busy["windows"] / in_flight if through_sites else 0.0,
        "engines": sum(engines.values()),
        "masks": busy["track"] + busy["decode"],
        "write": busy["write"],
    }
    if sequential_engines:
        held["after windows"] = engines["global stage"] + held["masks"]
    slowest = max(held, key=lambda name: held[name])
    ms = held[slowest] * 1e3
    if slowest == "read":
        slowest = max(reading, key=lambda name: busy[name])
    where = _engines_where(engines) if slowest == "engines" else _WHERE[slowest]
    step = f"{where}: {ms:.0f} ms of every frame"
    return f"the processor, {load}; the longest step is {step}" if load is not None and load.full else step


def _engines_where(seconds: Mapping[str, float]) -> str:
    """The engines that took half a millisecond or more, and how much where there are several."""
    used = {name: each for name, each in seconds.items() if each >= 5e-4} or seconds
    if len(used) == 1:
        return f"the {next(iter(used))} at the edge"
    return "the engines at the edge ({})".format(
        ", ".join(f"{name} {each * 1e3:.0f} ms" for name, each in used.items())
    )
