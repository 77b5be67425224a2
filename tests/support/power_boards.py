"""The power side of boards made of files: modes and clocks, and boards that reboot.

`lay_power` gives a FakeBoard the files that nvpmodel and jetson_clocks of board_programs/ work on; how they
behave is in files in its fake/power. Where no sample tells a clock, it is made up.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jetson.connection import ConnectionLost, Ran
from stages.errors import InputError
from tests.support.boards import FakeBoard, LocalBoard, sample

Table = tuple[tuple[int, str, int, int, int], ...]  # number, name, cores, GPU Hz, CPU kHz; -1: no cap


@dataclass(frozen=True, kw_only=True)
class PowerKind:
    """A kind of board: its configuration, the hardware's highest clocks, the device tree's names."""

    conf: str
    gpu_top: int
    cpu_top: int
    compatible: tuple[str, ...]
    mode: int
    gpu: str = "17000000.gpu"
    cores: int = 6


def conf_of(table: Table, default: int) -> str:
    """An nvpmodel.conf with these modes."""
    lines = [
        "< PARAM TYPE=CLOCK NAME=GPU >",
        "MAX_FREQ /sys/class/devfreq/17000000.gpu/max_freq",
        "",
    ]
    for number, name, cores, gpu, cpu in table:
        lines += [f"< POWER_MODEL ID={number} NAME={name} >"]
        lines += [f"CPU_ONLINE CORE_{core} {int(core < cores)}" for core in range(6)]
        lines += [f"CPU_A78_0 MAX_FREQ {cpu}", "GPU MIN_FREQ 0", f"GPU MAX_FREQ {gpu}", ""]
    return "\n".join([*lines, f"< PM_CONFIG DEFAULT={default} >", ""])


def _super_conf() -> str:
    return sample("nvpmodel-orin-nano-super.reconstructed.conf")


NANO = ("nvidia,p3767-0005", "nvidia,tegra234")
PLAIN = conf_of(((0, "15W", 6, 624750000, 1510400), (1, "7W", 4, 408000000, 960000)), default=0)
NANO_SUPER = PowerKind(
    conf=_super_conf(),
    gpu_top=1020000000,
    cpu_top=1728000,
    compatible=("nvidia,p3768-0000+p3767-0005-super", *NANO),
    mode=1,
)
NANO_PLAIN = PowerKind(
    conf=PLAIN,
    gpu_top=624750000,
    cpu_top=1510400,
    compatible=("nvidia,p3768-0000+p3767-0005", *NANO),
    mode=0,
)
# /etc/nvpmodel.conf linked by hand to the super file, on firmware without Super.
NANO_FORCED = PowerKind(
    conf=_super_conf(), gpu_top=624750000, cpu_top=1510400, compatible=NANO_PLAIN.compatible, mode=2
)
NX_SUPER = PowerKind(
    conf=conf_of(
        (
            (0, "MAXN_SUPER", 8, -1, -1),
            (1, "10W", 4, 612000000, 1190400),
            (3, "25W", 8, 714000000, 1344000),
            (4, "40W", 8, 1173000000, 1497600),
        ),
        default=3,
    ),
    gpu_top=1173000000,
    cpu_top=1984000,
    compatible=("nvidia,p3768-0000+p3767-0000-super", "nvidia,p3767-0000", "nvidia,tegra234"),
    mode=3,
)
AGX = PowerKind(
    conf=conf_of(
        (
            (0, "MAXN", 12, -1, -1),
            (1, "MODE_15W", 4, 420750000, 1113600),
            (2, "MODE_30W", 8, 624750000, 1728000),
            (3, "MODE_50W", 12, 828750000, 1497600),
        ),
        default=2,
    ),
    gpu_top=1300500000,
    cpu_top=2201600,
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    mode=2,
    gpu="17000000.ga10b",
)


def lay_power(board: FakeBoard, kind: PowerKind) -> None:
    """Write the files that a board's power mode and clocks are read from."""
    files = {
        "etc/nvpmodel.conf": kind.conf,
        "proc/device-tree/compatible": "".join(f"{name}\0" for name in kind.compatible),
        "proc/sys/kernel/random/boot_id": "11111111-1111-4111-8111-111111111111\n",
        "fake/power/mode": f"{kind.mode}\n",
        "fake/power/gpu-top": f"{kind.gpu_top}\n",
        "fake/power/cpu-top": f"{kind.cpu_top}\n",
        f"sys/class/devfreq/{kind.gpu}/available_frequencies": f"306000000 408000000 {kind.gpu_top}\n",
        "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked": "0\n",
        "sys/class/hwmon/hwmon0/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
        **{f"sys/class/hwmon/hwmon3/oc{number}_event_cnt": "0\n" for number in (1, 2, 3)},
    }
    for core in range(kind.cores):
        files[f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq"] = f"{kind.cpu_top}\n"
    for name, text in files.items():
        board.write(name, text)


@dataclass
class Down:
    """How often a board that reboots still answers as before, and then refuses a connection."""

    refusals: int = 2
    lingers: int = 0


class PowerBoard(LocalBoard):
    """A board of files whose scripts run here, and which can reboot."""

    def __init__(self, fake: FakeBoard) -> None:
        super().__init__(fake.environment(), "user@jetson")
        self.files = fake
        self.root = fake.folder
        self.home = fake.home
        self.down = Down()
        self.scripts: list[tuple[str, ...]] = []  # arguments of every script that ran
        self._cut = ""  # why nothing runs just now
        self._ids = [self._boot_id.read_text(encoding="utf-8")]

    def fake(self, name: str, text: str = "") -> None:
        """Write a file that says how nvpmodel and jetson_clocks behave, as asks."""
        self.files.write(f"fake/power/{name}", text)

    def program(self, name: str, script: str) -> None:
        """Put a program in the place of a stand-in."""
        self.files.program(name, f"#!/bin/sh\n{script}\n")

    def boot(self) -> None:
        """What an nvpmodel.service does: the clocks of the mode it is in."""
        self.run("nvpmodel --at-boot")

    def run(
        self,
        script: str,
        *arguments: str,
        name: str = "sh",
        stdin: IO[bytes] | bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        if self._cut:
            raise ConnectionLost(f"the connection to {self.address} was lost ({self._cut})")
        self.scripts.append(arguments)
        try:
            ran = super().run(
                script, *arguments, name=name, stdin=stdin, on_line=on_line, timeout_s=timeout_s
            )
        except subprocess.TimeoutExpired as exc:
            raise ConnectionLost(f"{self.address} did not answer within {timeout_s} s") from exc
        self._rebooted()
        return ran

    def reconnect(self) -> None:
        if self.down.lingers:
            self.down.lingers -= 1
        elif self._cut and self.down.refusals:
            self.down.refusals -= 1
            raise InputError(f"no connection to {self.address}: Connection refused")
        self._cut = ""
        self._boot_id.write_text(self._ids[0 if self.down.lingers else -1], encoding="utf-8")

    @property
    def _boot_id(self) -> Path:
        return self.root / "proc/sys/kernel/random/boot_id"

    def _rebooted(self) -> None:
        marker = self.root / "fake/rebooted"
        if marker.exists():
            marker.rename(marker.with_name("has-rebooted"))
            self._ids.append(self._boot_id.read_text(encoding="utf-8"))
            self._cut = "it reboots"
            raise ConnectionLost(f"the connection to {self.address} was lost (it reboots)")


def power_board(folder: Path, kind: PowerKind) -> PowerBoard:
    """A board of this kind that has booted, in its mode, clocks free."""
    fake = FakeBoard(folder / "board")
    lay_power(fake, kind)
    board = PowerBoard(fake)
    board.boot()
    board.scripts.clear()
    return board


def drop_connections(board: FakeBoard) -> None:
    """Let a reboot end the OpenSSH session it comes from, as it does on a board."""
    text = """#!/bin/sh
process=$PPID
while [ "$(cat "/proc/$process/comm")" != sshd ]; do process=$(cut -d' ' -f4 "/proc/$process/stat"); done
kill -9 "$process"
"""
    board.write("fake/on-reboot", text).chmod(0o755)
