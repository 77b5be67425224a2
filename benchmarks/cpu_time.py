"""Processor seconds of processes and of their threads, as Linux counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTimes:
    """At one moment: `threads_s` by (process, thread), `machine_s` of all that runs on this machine."""

    at_s: float
    threads_s: dict[tuple[int, int], float]
    machine_s: float

    def total_since(self, before: CpuTimes) -> float:
        """Of all threads together; what ended in between is not counted."""
        return sum(self._each_since(before))

    def process_since(self, before: CpuTimes, pid: int) -> float:
        """Of the threads of one process."""
        of_it = [key for key in self.threads_s if key[0] == pid]
        return sum(self.threads_s[key] - before.threads_s.get(key, 0.0) for key in of_it)

    def busiest_since(self, before: CpuTimes) -> float:
        """Of the thread that computed most: no other order of the work makes it less."""
        return max(self._each_since(before), default=0.0)

    def cores_of_others_since(self, before: CpuTimes) -> float:
        """Cores that something else kept busy meanwhile."""
        others_s = self.machine_s - before.machine_s - self.total_since(before)
        return max(0.0, others_s / (self.at_s - before.at_s))

    def _each_since(self, before: CpuTimes) -> list[float]:
        return [seconds - before.threads_s.get(key, 0.0) for key, seconds in self.threads_s.items()]


def cpu_times(pids: Sequence[int]) -> CpuTimes:
    """What these processes have used so far."""
    threads = {
        (pid, int(task.name)): _thread_s(task / "stat")
        for pid in pids
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
    return CpuTimes(time.perf_counter(), threads, _machine_s())


def _thread_s(stat: Path) -> float:
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()  # what stands before may hold blanks
    return (int(fields[11]) + int(fields[12])) * _TICK_S  # in user mode and in the kernel


def _machine_s() -> float:
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]
    )
    return (user + nice + system + irq + softirq) * _TICK_S
