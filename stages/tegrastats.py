"""One line of `tegrastats`, the program that tells what a Jetson does, as a reading.

Every form of a field that JetPack 5, 6 and 7 print is understood; a field that is missing, cut off or of a
kind not known here is left out, since each release and each board prints others. The memory is always there:
a line without it is no reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stages.errors import InputError

MAX_CHARACTERS = 4096  # real lines have some 700
OFF_C = -256.0  # what a sensor that is off reads
# The input rail of Orin Nano and NX, and of Thor.
_WHOLE_BOARD = ("VDD_IN", "VIN")
# AGX Orin has none; these are fed side by side. VDDQ_VDD2_1V8AO is left out: only some releases print it, and
# watts of two of them should compare.
_PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")

# Nine digits at most, in ASCII: what int() takes at once, and far more than a board has of anything.
_N = r"[0-9]{1,9}"
_SIGNED = rf"-?{_N}(?:\.{_N})?"
_END = r"(?=\s|$)"  # a field that was cut off is none
_TIME = re.compile(r"\s*([0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2})\s")
_RAM = re.compile(rf"(?:^|\s)RAM ({_N})/({_N})MB(?: \(lfb ({_N})x({_N})MB\))?{_END}")
_SWAP = re.compile(rf"\sSWAP ({_N})/({_N})MB(?: \(cached ({_N})MB\))?{_END}")
_CPU = re.compile(rf"\sCPU \[((?:(?:{_N}%@{_N}|off),?)+)\]{_END}")
_CORE = re.compile(rf"({_N})%@({_N})|off")
# `0%`, `62%@612`, `0%@[305]` and, without a load, `@[314,314,314]`.
_LOAD = rf"(?:({_N})%)?(?:@({_N}|\[{_N}(?:,{_N})*\]))?"
_GPU = re.compile(rf"\s(GR3D[0-9]?)_FREQ {_LOAD}{_END}")
_EMC = re.compile(rf"\sEMC_FREQ {_LOAD}{_END}")
_ZONE = re.compile(rf"\s([A-Za-z][A-Za-z0-9_]*)@({_SIGNED})C(?:/{_SIGNED}C)*{_END}")
_RAIL = re.compile(rf"\s([A-Z][A-Z0-9_]*) (-?{_N})mW(?:/(-?{_N})mW)?(?:/(-?{_N})mW)?{_END}")
# `NVDEC off`, `VIC 36%@115`, `NVDEC0_FREQ @314` and, a clock alone, `VIC_FREQ 729`.
_ENGINE = re.compile(
    rf"\s((?:NVENC|NVDEC|NVJPG|VIC|OFA|NVDLA|PVA)[0-9]*)(?:_FREQ)? (?:(off)|({_N})|{_LOAD}){_END}"
)


@dataclass(frozen=True)
class Usage:
    """Load in percent and clock in MHz, each None where it is not told; the fastest clock of several."""

    percent: int | None
    mhz: int | None


@dataclass(frozen=True)
class Rail:
    """Power of one rail in milliwatts, which can be negative: now, on average and at most since tegrastats
    was started."""

    now_mw: int
    average_mw: int | None = None
    peak_mw: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tegrastats:
    """One reading. Memory is in MB of 2**20 bytes, as tegrastats counts it.

    `time` is the board's own clock, without a zone. Of the RAM, `free_blocks` blocks of `free_block_mb` each
    are the largest in one piece. `swap_*` are None where the board has no swap. A core that is off is None in
    `cores`, an engine that is off None in `engines`. `temperatures_c` has no sensors that are off, and zones
    in lower case; `rails` none without a name. `gpu` is the busier of two.
    """

    ram_used_mb: int
    ram_total_mb: int
    time: datetime | None = None
    free_blocks: int | None = None
    free_block_mb: int | None = None
    swap_used_mb: int | None = None
    swap_total_mb: int | None = None
    cores: tuple[Usage | None, ...] = ()
    gpu: Usage = Usage(None, None)
    emc: Usage = Usage(None, None)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    rails: Mapping[str, Rail] = field(default_factory=dict)
    engines: Mapping[str, Usage | None] = field(default_factory=dict)

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The warmest zone and its degrees Celsius."""
        return max(self.temperatures_c.items(), key=lambda zone: zone[1], default=None)

    @property
    def power_mw(self) -> int | None:
        """Power of the whole board in milliwatts; None where no rail tells it."""
        for name in _WHOLE_BOARD:
            if name in self.rails:
                return self.rails[name].now_mw
        if all(name in self.rails for name in _PARTS):
            return sum(self.rails[name].now_mw for name in _PARTS)
        return None


def parse_tegrastats(line: str) -> Tegrastats:
    """The reading in one line. Raises InputError, and nothing else, for a line that is none."""
    ram = _RAM.search(line) if len(line) <= MAX_CHARACTERS else None
    if ram is None:
        raise InputError(
            f"{line[:60]!a} is no line of tegrastats: expected one with RAM used/totalMB; see what "
            "`tegrastats --interval 1000` prints"
        )
    used, total, blocks, block = map(_number, ram.groups())
    swap = _SWAP.search(line)
    return Tegrastats(
        time=_time(line),
        ram_used_mb=used or 0,
        ram_total_mb=total or 0,
        free_blocks=blocks,
        free_block_mb=block,
        swap_used_mb=_number(swap[1]) if swap else None,
        swap_total_mb=_number(swap[2]) if swap else None,
        cores=_cores(line),
        gpu=_gpu(line),
        emc=_usage(*found.groups()) if (found := _EMC.search(line)) else Usage(None, None),
        temperatures_c=_temperatures(line),
        rails=_rails(line),
        engines={
            name: None if off else _usage(percent, clock or mhz)
            for name, off, clock, percent, mhz in _ENGINE.findall(line)
        },
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _usage(percent: str | None, mhz: str | None) -> Usage:
    clocks = [int(each) for each in (mhz or "").strip("[]").split(",") if each]
    return Usage(_number(percent), max(clocks, default=None))


def _time(line: str) -> datetime | None:
    found = _TIME.match(line)
    try:
        return datetime.strptime(found[1], "%m-%d-%Y %H:%M:%S") if found else None
    except ValueError:  # the 32nd of a month
        return None


def _cores(line: str) -> tuple[Usage | None, ...]:
    found = _CPU.search(line)
    cores = _CORE.finditer(found[1]) if found else ()
    return tuple(None if core[0] == "off" else _usage(core[1], core[2]) for core in cores)


def _gpu(line: str) -> Usage:
    found = [_usage(percent, mhz) for _, percent, mhz in _GPU.findall(line)]
    loads = [usage.percent for usage in found if usage.percent is not None]
    clocks = [usage.mhz for usage in found if usage.mhz is not None]
    return Usage(max(loads, default=None), max(clocks, default=None))


def _temperatures(line: str) -> dict[str, float]:
    zones = {name.lower(): float(degrees) for name, degrees in _ZONE.findall(line)}
    return {name: degrees for name, degrees in zones.items() if degrees != OFF_C}


def _rails(line: str) -> dict[str, Rail]:
    return {
        name: Rail(int(now), _number(average), _number(peak))
        for name, now, average, peak in _RAIL.findall(line)
        if name != "NC"  # not connected
    }
