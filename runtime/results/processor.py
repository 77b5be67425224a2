"""How busy this machine's cores are while a run goes on, by whatever runs on them (Linux)."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.5
_MOMENTS = 1000
_BUSY = 0.9  # of the cores: from here on they are what limits a run
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Of the `cores` that this process may use so many were `busy`, `own` of them with this process."""

    cores: int
    busy: float
    own: float

    @property
    def full(self) -> bool:
        return self.busy >= _BUSY * self.cores

    def __str__(self) -> str:
        return f"{self.busy:.1f} of {self.cores} cores busy, {self.own:.1f} of them with this process"


@dataclass(frozen=True)
class _Moment:
    at_s: float
    busy_s: float
    own_s: float


class Processor:
    """Notes now and then what the cores have done. Where the system does not tell, there is no load."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._cores = sorted(os.sched_getaffinity(0))
        self._moments: deque[_Moment] = deque(maxlen=_MOMENTS)
        self.note()

    def note(self) -> None:
        """Take note, if the last time was not just now."""
        now_s = time.perf_counter()
        if self._moments and now_s - self._moments[-1].at_s < _EVERY_S:
            return
        try:
            lines = self._stat.read_text(encoding="ascii").splitlines()
            busy_s = sum(_busy_ticks(lines[1 + core], core) for core in self._cores) * _TICK_S
        except (OSError, ValueError, IndexError):
            return
        self._moments.append(_Moment(now_s, busy_s, time.process_time()))

    def load(self, start_s: float = 0.0) -> Load | None:
        """From a time.perf_counter() until the last note; None of less than two notes."""
        moments = [moment for moment in self._moments if moment.at_s >= start_s]
        if len(moments) < 2:
            return None
        first, last = moments[0], moments[-1]
        seconds = last.at_s - first.at_s
        busy, own = (last.busy_s - first.busy_s) / seconds, (last.own_s - first.own_s) / seconds
        return Load(len(self._cores), min(busy, len(self._cores)), min(own, busy))


def _busy_ticks(line: str, core: int) -> int:
    """Of a line "cpu0 user nice system idle iowait irq softirq steal ..."; ValueError for another."""
    name, *counts = line.split()
    if name != f"cpu{core}":
        raise ValueError(name)
    user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
    return user + nice + system + irq + softirq + steal
