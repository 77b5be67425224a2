"""A board for tests: a program that says what tegrastats of a real one did, and Linux' files beside it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from runtime.live.board_reader import BoardOptions
from tests.support.samples import lines_of

LOADED = lines_of("tegrastats-orin-nano-jp6.0-loaded-root.txt")[0]
STAY = "exec sleep 600"  # after its lines tegrastats goes on


def tegrastats(folder: Path, *commands: str) -> Path:
    """A program `tegrastats` that notes its arguments and process id, then runs these commands of a shell."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tegrastats"
    noted = f'echo "$$ $@" >> {shlex.quote(str(folder / "started"))}'
    path.write_text("\n".join(["#!/bin/sh", noted, *commands, ""]))
    path.chmod(0o755)
    return path


def says(*lines: str) -> str:
    """The command that prints lines."""
    return "printf '%s\\n' " + " ".join(map(shlex.quote, lines))


def starts(program: Path) -> list[tuple[int, str]]:
    """Process id and arguments of each time it was started."""
    noted = program.with_name("started")
    if not noted.exists():
        return []
    pairs = (line.split(" ", 1) for line in noted.read_text().splitlines())
    return [(int(pid), arguments) for pid, arguments in pairs]


def write_linux(folder: Path, available_mb: int = 3790, **counts: int) -> None:
    """meminfo and the hwmon folders; `counts` are over-current events, as oc3=37."""
    device = folder / "hwmon" / "hwmon3"
    device.mkdir(parents=True, exist_ok=True)
    (device / "name").write_text("soctherm_oc\n")
    for name, count in counts.items():
        (device / f"{name}_event_cnt").write_text(f"{count}\n")
    kilobytes = {"MemTotal": 7803000, "MemFree": 100000, "MemAvailable": available_mb * 1024}
    lines = (f"{name + ':':<16}{count} kB\n" for name, count in kilobytes.items())
    (folder / "meminfo").write_text("".join(lines))


def board_options(folder: Path, program: Path, **more: float) -> BoardOptions:
    """To read this program and the files of `write_linux`, started again at once."""
    return BoardOptions(str(program), folder / "hwmon", folder / "meminfo", retry_s=(0.0,), **more)


def sampled_linux(folder: Path) -> Path:
    """The hwmon folders that the sample of a throttled board tells of."""
    for line in lines_of("throttle-over-current.txt"):
        if match := re.fullmatch(r"/sys/class/(hwmon/\S+): (\S+)", line):
            path = folder / match[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{match[2]}\n")
    return folder / "hwmon"
