"""What the board under the edge does: load, memory, heat, watts and throttling of a Jetson.

The newest reading is for page and metrics, all together are for the summary, each is a point in the timeline.
`runtime.live.board_reader` makes the readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.live.status import BoardStatus
from runtime.results.trace import NO_TRACE, Trace
from stages.tegrastats import Tegrastats

STALE_S = 10.0  # the board is not shown by a reading that is older
SHORT_MB = 500  # of available memory below which it is said to be short
THROTTLED_S = 60.0  # for so long after the last event the board is said to be throttled


@dataclass(frozen=True)
class BoardReading:
    """What was read at once. `available_mb` is None where Linux does not tell; `throttle_events` count by
    kind since the board was started."""

    stats: Tegrastats
    available_mb: int | None
    throttle_events: Mapping[str, int]


class Board:
    """The newest reading and what came before, for whoever looks on. `clock` gives seconds."""

    def __init__(self, trace: Trace = NO_TRACE, clock: Callable[[], float] = time.perf_counter) -> None:
        self._trace = trace
        self._clock = clock
        self._newest: BoardReading | None = None
        self._at_s = 0.0
        self._first_events: Mapping[str, int] = {}
        self._events: dict[str, int] = {}  # since the first reading
        self._risen_s: dict[str, float] = {}  # when the count of a kind rose last
        self._totals = _Totals()

    def take(self, reading: BoardReading) -> None:
        """One more reading."""
        self._at_s = self._clock()
        if self._newest is None:
            self._first_events = reading.throttle_events
        self._newest = reading
        self._count_events(reading.throttle_events)
        self._totals.add(reading)
        for name, value in _counters(reading).items():
            self._trace.add_counter(name, self._at_s, value)

    def status(self) -> BoardStatus | None:
        """As it is now; None before the first reading, and when the last one is too old."""
        reading = self._newest
        if reading is None or self._clock() - self._at_s > STALE_S:
            return None
        stats = reading.stats
        return BoardStatus(
            gpu_percent=stats.gpu.percent,
            memory_used_mb=stats.ram_used_mb,
            memory_total_mb=stats.ram_total_mb,
            memory_available_mb=reading.available_mb,
            temperatures_c=dict(stats.temperatures_c),
            power_mw={name: rail.now_mw for name, rail in stats.rails.items()},
            board_power_mw=stats.power_mw,
            throttle_events=dict(self._events),
            warnings=self._warnings(reading),
        )

    def summary(self) -> dict[str, Any] | None:
        """Peaks, means and events of the whole run, for summary.json; None when nothing was read."""
        if self._newest is None:
            return None
        return {**self._totals.summary(), "throttle_events": dict(self._events)}

    def _count_events(self, now: Mapping[str, int]) -> None:
        for kind, count in now.items():
            since = max(0, count - self._first_events.get(kind, 0))
            if since > self._events.get(kind, 0):
                self._risen_s[kind] = self._at_s
            self._events[kind] = since

    def _warnings(self, reading: BoardReading) -> tuple[str, ...]:
        now_s = self._clock()
        risen = [kind for kind, at_s in self._risen_s.items() if now_s - at_s <= THROTTLED_S]
        # of both kinds of over-current the cause and the cure are the same
        causes = dict.fromkeys("over-current" if kind.endswith("over-current") else kind for kind in risen)
        said = [f"throttled: {cause}" for cause in causes]
        if reading.available_mb is not None and reading.available_mb < SHORT_MB:
            said.append(f"memory is short: {reading.available_mb} MB are available")
        return tuple(said)


class _Totals:
    """Means and peaks of readings, in memory that does not grow."""

    def __init__(self) -> None:
        self._readings = 0
        self._gpu_percent = _Mean()
        self._power_w = _Mean()
        self._hottest: tuple[str, float] | None = None
        self._least_mb: int | None = None

    def add(self, reading: BoardReading) -> None:
        stats = reading.stats
        self._readings += 1
        self._gpu_percent.add(stats.gpu.percent)
        self._power_w.add(None if stats.power_mw is None else stats.power_mw / 1e3)
        found = [zone for zone in (self._hottest, stats.hottest) if zone is not None]
        self._hottest = max(found, key=lambda zone: zone[1], default=None)
        memory = [mb for mb in (self._least_mb, reading.available_mb) if mb is not None]
        self._least_mb = min(memory, default=None)

    def summary(self) -> dict[str, Any]:
        zone, degrees = self._hottest or (None, None)
        return {
            "readings": self._readings,
            "temperature_c_peak": degrees,
            "temperature_zone_peak": zone,
            "power_w_mean": self._power_w.mean,
            "power_w_peak": self._power_w.peak,
            "memory_available_mb_least": self._least_mb,
            "gpu_percent_mean": self._gpu_percent.mean,
            "gpu_percent_peak": self._gpu_percent.peak,
        }


class _Mean:
    """Of the values that were known."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0
        self.peak: float | None = None

    def add(self, value: float | None) -> None:
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1
            self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> float | None:
        return round(self._sum / self._count, 2) if self._count else None


def _counters(reading: BoardReading) -> dict[str, float]:
    """What the timeline shows of a reading, by the name of its track."""
    stats = reading.stats
    found = {
        "GPU load (%)": stats.gpu.percent,
        "memory used (MB)": stats.ram_used_mb,
        "memory available (MB)": reading.available_mb,
        "warmest zone (C)": stats.hottest[1] if stats.hottest else None,
        "board power (W)": None if stats.power_mw is None else stats.power_mw / 1e3,
    }
    return {name: value for name, value in found.items() if value is not None}
