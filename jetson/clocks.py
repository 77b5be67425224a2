"""Clocks of a Jetson: what sysfs and `jetson_clocks --show` say, and whether a power mode's label is true.

A label can lie: on firmware without Super, nvpmodel can be made to say MAXN_SUPER while the GPU stays at
624.75 MHz. So a mode counts as set when the maximum clocks of GPU and CPU are those it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jetson.power import NO_CAP, Mode, Modes, normalised

TOLERANCE = 0.05  # a cap between two steps of the hardware becomes one of them
LEAST_OF_SUPER_HZ = 918_000_000  # of the GPU; without Super an Orin Nano's ends at 624.75 MHz
_GPU = re.compile(r"/([^/]*\.(?:gpu|ga10b)|gpu-[^/]*)/")
_CPU = re.compile(r"/cpu\d+/cpufreq/")
_SHOWN = re.compile(r"^(\w+):?\s.*?\bMinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)")
_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "average current", "oc3": "peak current"}


@dataclass(frozen=True)
class Clock:
    """The range a clock may run in now, in its file's unit; `top` is the hardware's own end, where told."""

    low: int
    high: int
    top: int | None = None

    @property
    def pinned(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class Clocks:
    """GPU in Hz, the fastest CPU core in kHz; None where it could not be read."""

    gpu: Clock | None = None
    cpu: Clock | None = None

    @property
    def pinned(self) -> bool:
        """Whether both run at one clock, as after `jetson_clocks`."""
        return all(clock is not None and clock.pinned for clock in (self.gpu, self.cpu))

    def __str__(self) -> str:
        parts = [f"GPU up to {mhz(self.gpu.high)} MHz"] if self.gpu else []
        parts += [f"CPU up to {mhz(self.cpu.high * 1000)} MHz"] if self.cpu else []
        return ", ".join(parts) or "clocks unknown"


@dataclass(frozen=True)
class Shown:
    """What `jetson_clocks --show` prints: (lowest, highest, current) by name, CPUs in kHz, the rest in Hz."""

    clocks: Mapping[str, tuple[int, int, int]]
    mode: str | None

    @property
    def emc_hz(self) -> int | None:
        """The memory's current clock."""
        return self.clocks["EMC"][2] if "EMC" in self.clocks else None


def mhz(hertz: int) -> str:
    return f"{hertz / 1e6:.2f}".rstrip("0").rstrip(".")


def parse_sysfs(text: str) -> Clocks:
    """Clocks from lines `FILE:VALUE` of /sys/class/devfreq and cpufreq; some files hold a list of numbers."""
    gpus: dict[str, dict[str, int]] = {}
    cpus: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        path, _, values = line.partition(":")
        folder, _, name = path.rpartition("/")
        numbers = [int(value) for value in values.split() if value.isdecimal()]
        for pattern, found in ((_GPU, gpus), (_CPU, cpus)):
            if numbers and pattern.search(path):
                found.setdefault(folder, {})[name] = max(numbers)
    gpu = [_clock(each, "min_freq", "max_freq", "available_frequencies") for each in gpus.values()]
    cpu = [_clock(each, "scaling_min_freq", "scaling_max_freq", "cpuinfo_max_freq") for each in cpus.values()]
    return Clocks(_fastest(gpu), _fastest(cpu))


def parse_show(text: str) -> Shown:
    """The forms of JetPack 6 and 7: `cpu0:  Online=1 Governor=...`, `GPU MinFreq=...`, the mode's name."""
    clocks = {}
    for line in text.splitlines():
        if found := _SHOWN.match(line):
            clocks[found[1]] = (int(found[2]), int(found[3]), int(found[4]))
    mode = re.search(r"^NV Power Mode:\s*(\S.*?)\s*$", text, re.MULTILINE)
    return Shown(clocks, mode[1] if mode else None)


def faults(mode: Mode, modes: Modes, clocks: Clocks) -> list[str]:
    """How the maximum clocks differ from what this mode stands for; nothing when it is truly set."""
    found = [check.fault() for check in _checks(mode, modes, clocks)]
    return [fault for fault in found if fault]


def out_of_reach(mode: Mode, modes: Modes, clocks: Clocks) -> list[str]:
    """What the hardware's own highest clocks, where told, keep this mode from being."""
    found = [check.shortfall(check.clock.top) for check in _checks(mode, modes, clocks) if check.clock]
    return [fault for fault in found if fault]


def parse_over_current(text: str) -> dict[str, int]:
    """How often the board was throttled since boot, by kind, from lines `FILE:VALUE` of hwmon.

    Only a sensor whose name is soctherm_oc counts; {} where there is none.
    """
    values = dict(re.findall(r"^(/[^\s:]+): ?(\S+)$", text, re.MULTILINE))
    sensors = [path.removesuffix("name") for path, value in values.items() if value == "soctherm_oc"]
    return {
        kind: int(values[path])
        for kind in _OVER_CURRENT
        for path in (f"{sensor}{kind}_event_cnt" for sensor in sensors)
        if values.get(path, "").isdecimal()
    }


def over_current_rise(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """A warning for a person when the counters rose between two readings, else ""."""
    rises = [
        f"{after[kind] - before[kind]} x {cause}"
        for kind, cause in _OVER_CURRENT.items()
        if kind in before and after.get(kind, 0) > before[kind]
    ]
    if not rises:
        return ""
    return (
        f"the board throttled itself for over-current: {', '.join(rises)}; a lower --power or a stronger "
        "power supply avoids it"
    )


@dataclass(frozen=True)
class _Check:
    """One clock of a mode: its cap, the least maximum that counts as the mode, and the clock as it is."""

    what: str
    hertz: int  # of one unit
    cap: int | None
    least: int
    clock: Clock | None

    def fault(self) -> str:
        if self.cap is None:
            return ""
        if self.clock is None:
            return f"the {self.what}'s maximum clock cannot be read"
        if self.cap != NO_CAP and self.clock.high > self.cap * (1 + TOLERANCE):
            found = self._mhz(self.clock.high)
            return f"the {self.what} runs at up to {found} MHz instead of {self._mhz(self.cap)}"
        if self.cap == NO_CAP and self.clock.top and self.clock.high < self.clock.top * (1 - TOLERANCE):
            return self._slow(self.clock.high, self.clock.top)
        return self.shortfall(self.clock.high)

    def shortfall(self, high: int | None) -> str:
        """What is wrong with this as the maximum clock, when it is too low."""
        if high is None or high >= self.least * (1 - TOLERANCE):
            return ""
        return self._slow(high, self.least)

    def _slow(self, high: int, wanted: int) -> str:
        return f"the {self.what} runs at {self._mhz(high)} MHz at most instead of {self._mhz(wanted)}"

    def _mhz(self, clock: int) -> str:
        return mhz(clock * self.hertz)


def _checks(mode: Mode, modes: Modes, clocks: Clocks) -> tuple[_Check, _Check]:
    floor = LEAST_OF_SUPER_HZ if normalised(mode.name).endswith("_SUPER") else 0
    gpu = _least(mode.gpu_hz, [floor, *(each.gpu_hz for each in modes.listed)])
    cpu = _least(mode.cpu_khz, [each.cpu_khz for each in modes.listed])
    return (
        _Check("GPU", 1, mode.gpu_hz, gpu, clocks.gpu),
        _Check("CPU", 1000, mode.cpu_khz, cpu, clocks.cpu),
    )


def _least(cap: int | None, others: Iterable[int | None]) -> int:
    """A mode without a cap is no slower than those that have one."""
    return max([0, *(other or 0 for other in others)]) if cap == NO_CAP else cap or 0


def _clock(files: Mapping[str, int], low: str, high: str, top: str) -> Clock | None:
    return Clock(files.get(low, 0), files[high], files.get(top)) if high in files else None


def _fastest(clocks: list[Clock | None]) -> Clock | None:
    return max((clock for clock in clocks if clock), key=lambda clock: clock.high, default=None)
