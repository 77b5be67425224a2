"""Boards made of files and small programs, for tests: what a real board printed, where look.sh looks for it.

A program that is run with FakeBoard.environment sees the board. Programs keep what they know in the folder
state/; tests/support/board_programs/ has them, one file each. Nothing here was run on a board.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jetson.connection import Board, Ran

SAMPLES = Path(__file__).parent.parent / "jetson" / "samples"
PROGRAMS = Path(__file__).parent / "board_programs"
PYTHON = "#!/usr/bin/env python3"
USER = "jetson"
VIDEO_GID, RENDER_GID, DOCKER_GID = 44, 104, 999
GIB_KIB = 1024**2


def sample(name: str) -> str:
    """A file of tests/jetson/samples/, as real boards print it; INDEX.tsv says where it comes from."""
    return (SAMPLES / name).read_text(encoding="utf-8")


def rows(name: str) -> list[dict[str, str]]:
    """A sample that is a table."""
    return list(csv.DictReader(sample(name).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


@dataclass(frozen=True)
class Samples:
    """What a board is made of: the ending of its nv_tegra_release-r*.txt, the first words of its row in
    device-tree-model-compatible.tsv, its tegrastats-*.txt, and its kernel."""

    release: str
    device_tree: str
    tegrastats: str
    kernel: str = "5.15.148-tegra"
    docker: str = "29.4.3"
    toolkit: str | None = "1.16.2-1"


NANO_SUPER = "Orin Nano 8GB devkit, super firmware"
NANO = "Orin Nano 8GB module (P3767-0003), non-super"
BOARDS = {
    "orin-nano-super": Samples("36.4.3", NANO_SUPER, "orin-nano-super-jp6-idle-user"),
    "orin-nano": Samples("36.4.0", NANO, "orin-nano-jp6-idle-root"),
    "orin-nx": Samples("36.4.3", "Orin NX 16GB (P3767-0000), non-super", "orin-nx16-jp6.2-idle"),
    "agx-orin": Samples("36.4.4", "AGX Orin devkit", "agx-orin-jp6.2.1-root-r36.4.4"),
    "jetpack-5": Samples("35.1.0", "AGX Orin devkit", "agx-orin-jp5-2025", "5.10.104-tegra", "24.0.7"),
    "36.3": Samples("36.3.0", NANO, "orin-nano-jp6.0-loaded-root", "5.15.136-tegra", "27.5.1"),
    "36.4.7": Samples("36.4.7", NANO_SUPER, "orin-nano-super-jp6-user"),
    "39.2": Samples(
        "39.2.0", NANO_SUPER, "orin-nano-super-jp7.2.1", "6.8.12-1021-tegra", "29.8.0", toolkit=None
    ),
}


class FakeBoard:
    """A board laid out in `folder`: bin/ (programs), home/, state/ (what programs know), and what a root has.

    It has no trouble at first: docker can be used and has the runtime nvidia, sudo asks for no password, the
    clock is right, there is room, no desktop, a CSI and an USB camera.
    """

    def __init__(self, folder: Path, name: str = "orin-nano-super") -> None:
        self.folder = folder
        self.samples = BOARDS[name]
        self._lay_out_programs()
        self._lay_out_system()
        self._lay_out_memory()
        self._lay_out_docker()
        self._lay_out_devices()

    @property
    def home(self) -> Path:
        """The user's home folder."""
        return self.folder / "home"

    def environment(self) -> dict[str, str]:
        """The environment of a process that is to run on this board."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "HOME": str(self.home), "PEDSAM_BOARD_ROOT": str(self.folder)}

    def connection(self) -> LocalBoard:
        """What a Board is to this board, without OpenSSH."""
        return LocalBoard(self.environment())

    def write(self, path: str, text: str) -> Path:
        """A file below the board's root, with its folders."""
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def state(self, name: str) -> str:
        """What the programs know under this name."""
        return (self.folder / "state" / name).read_text(encoding="utf-8").rstrip("\n")

    def set(self, name: str, text: str | int) -> None:
        """Let the programs know something else."""
        self.write(f"state/{name}", f"{text}\n")

    def program(self, name: str, text: str) -> None:
        """A program of this board, in its own words."""
        file = self.write(f"bin/{name}", text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def without(self, program: str) -> None:
        """As if the program was not installed, whatever this machine has."""
        self.program(program, "#!/bin/sh\nexit 127\n")

    def _lay_out_programs(self) -> None:
        for file in PROGRAMS.iterdir():
            if file.is_file():  # not what Python leaves there
                # This Python rather than env's, which may be a script that looks for one
                self.program(
                    file.name, file.read_text(encoding="utf-8").replace(PYTHON, f"#!{sys.executable}")
                )
        self.home.mkdir()
        for name, text in {
            "user": USER,
            "groups": f"{USER} sudo video render docker",
            "registered_groups": f"{USER} sudo video render docker",
            "group": f"video:x:{VIDEO_GID}:{USER}\nrender:x:{RENDER_GID}:\ndocker:x:{DOCKER_GID}:{USER}",
            "sudo": "passwordless",
            "sudo_refusal": sample("sudo-no-tty.txt").rstrip("\n"),
            "clock_offset": 0,
            "architecture": "aarch64",
            "timedatectl": sample("timedatectl-synced.txt").rstrip("\n"),
            "default_target": "multi-user.target",
            "active": "docker.service\nnvargus-daemon.service",
        }.items():
            self.set(name, str(text))

    def _lay_out_system(self) -> None:
        row = next(
            row
            for row in rows("device-tree-model-compatible.tsv")
            if row["board"].startswith(self.samples.device_tree)
        )
        tree = {name.partition(" ")[0]: value for name, value in row.items()}
        self.write("proc/device-tree/model", f"{tree['model']}\0")
        self.write("proc/device-tree/compatible", "".join(f"{each}\0" for each in tree["compatible"].split()))
        self.write("etc/nv_tegra_release", sample(f"nv_tegra_release-r{self.samples.release}.txt"))
        self.write("proc/mounts", "/dev/nvme0n1p1 / ext4 rw,relatime 0 0\n")
        self.set("kernel", self.samples.kernel)
        toolkit = f"nvidia-container-toolkit {self.samples.toolkit}\n" if self.samples.toolkit else ""
        self.set("packages", f"{toolkit}nvidia-l4t-core {self.samples.release}-20250918154033")

    def _lay_out_memory(self) -> None:
        line = sample(f"tegrastats-{self.samples.tegrastats}.txt").split("\n")[0]
        self.set("tegrastats", line)
        used, total, blocks, block = map(int, re.findall(r"RAM (\d+)/(\d+)MB \(lfb (\d+)x(\d+)MB\)", line)[0])
        swap = re.search(r"SWAP \d+/(\d+)MB", line)
        self.set_memory(total - used, total, int(swap[1]) if swap else 0, blocks, block)

    def set_memory(self, free_mib: int, total_mib: int, swap_mib: int, blocks: int, block_mib: int) -> None:
        """Memory as tegrastats tells it: `blocks` free blocks of `block_mib` MiB are the largest."""
        sizes = {"MemTotal": total_mib, "MemAvailable": free_mib, "SwapTotal": swap_mib}
        self.write(
            "proc/meminfo", "".join(f"{name + ':':15} {size * 1024} kB\n" for name, size in sizes.items())
        )
        order = (block_mib * 1024 // 4).bit_length() - 1
        counts = [7] * order + [blocks] + [0] * (10 - order)
        self.write("proc/buddyinfo", f"Node 0, zone   Normal {' '.join(f'{count:6}' for count in counts)} \n")

    def _lay_out_docker(self) -> None:
        self.set("docker", "ready")
        self.write("etc/docker/daemon.json", sample("etc-docker-daemon-default.json"))
        self.set_docker(
            ServerVersion=self.samples.docker,
            Runtimes={"io.containerd.runc.v2": {}, "nvidia": {}, "runc": {}},
            DefaultRuntime="runc",
            Driver="overlay2",
            DriverStatus=[["Backing Filesystem", "extfs"], ["Native Overlay Diff", "true"]],
            DockerRootDir="/var/lib/docker",
            SecurityOptions=["name=seccomp,profile=builtin", "name=cgroupns"],
        )
        (self.folder / "var/lib/docker").mkdir(parents=True)
        self.set_free(60)

    def set_docker(self, **known: Any) -> None:
        """What the daemon says of itself, by the names of `docker info`'s JSON."""
        file = self.folder / "state/docker_info.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        self.set("docker_info.json", json.dumps({**before, **known}))

    def set_free(self, root_gib: float, **places: float) -> None:
        """Free space in GiB: of the root filesystem, and of others, as var_lib_docker=3."""
        mounts = [("/", root_gib), *((f"/{name.replace('_', '/')}", gib) for name, gib in places.items())]
        lines = []
        for number, (mount, gib) in enumerate(mounts, 1):
            free = round(gib * GIB_KIB)
            size = max(116 * GIB_KIB, free)
            lines.append(f"{mount} /dev/nvme0n1p{number} {size} {size - free} {free} {mount}")
        self.set("df", "\n".join(lines))

    def _lay_out_devices(self) -> None:
        for path in sample("dev-nodes-jetson-orin.txt").split():
            self.write(path, "")
        self.write("tmp/argus_socket", "")
        self.set("v4l2", sample("v4l2-ctl-list-devices-orin-nano-imx219.txt"))
        self.add_camera(0, "vi-output, imx219 9-0010", "platform/tegra-capture-vi", "tegra-camrtc-capture-vi")
        self.add_camera(1, "HD Pro Webcam C920", "platform/3610000.usb/usb1/1-2/1-2:1.0", "uvcvideo")

    def add_camera(self, number: int, name: str, place: str, driver: str) -> None:
        """A camera as the kernel tells of it: its place below /sys/devices, and its driver."""
        device = self.folder / "sys/devices" / place
        device.mkdir(parents=True, exist_ok=True)
        self.write(f"sys/bus/drivers/{driver}/uevent", "")
        (device / "driver").symlink_to(self.folder / "sys/bus/drivers" / driver)
        self.write(f"sys/class/video4linux/video{number}/name", f"{name}\n")
        (self.folder / f"sys/class/video4linux/video{number}/device").symlink_to(device)
        self.write(f"dev/video{number}", "")

    def without_cameras(self) -> None:
        """No camera, and NVIDIA's camera service does not run."""
        shutil.rmtree(self.folder / "sys/class/video4linux")
        for node in self.folder.glob("dev/video*"):
            node.unlink()
        (self.folder / "tmp/argus_socket").unlink()
        self.set("v4l2", sample("v4l2-ctl-list-devices-no-camera.txt"))

    def without_nvidia_runtime(self) -> None:
        """Docker does not know the runtime nvidia, and the toolkit is not installed."""
        self.set_docker(Runtimes={"io.containerd.runc.v2": {}, "runc": {}})
        self.set("packages", f"nvidia-l4t-core {self.samples.release}-20250918154033")
        self.write("etc/docker/daemon.json", "{}\n")

    def with_containerd_store(self) -> None:
        """Containerd keeps docker's images, which makes docker forget its runtimes."""
        lines = sample("docker-info-runtime-lines-snapshotter.txt")
        driver, kind, runtimes, default = re.findall(r": (.*)", lines)
        self.set_docker(
            Driver=driver,
            DriverStatus=[["driver-type", kind]],
            Runtimes={name: {} for name in runtimes.split()},
            DefaultRuntime=default,
        )

    def docker_denied(self) -> None:
        """The user is not in the group docker."""
        self.set("docker", "denied")
        for name in ("groups", "registered_groups"):
            self.set(name, f"{USER} sudo video render")

    def docker_down(self) -> None:
        """Docker's daemon does not run."""
        self.set("docker", "down")

    def full_disk(self) -> None:
        """Hardly anything is free anywhere."""
        self.set_free(1.5)

    def read_only(self) -> None:
        """The root filesystem was made read-only after errors."""
        self.write("proc/mounts", "/dev/nvme0n1p1 / ext4 ro,relatime 0 0\n")

    def clock_in_1970(self, now_s: float) -> None:
        """The clock began anew, and nothing sets it. `now_s` is the real time."""
        self.set("clock_offset", 100 - round(now_s))
        text = sample("timedatectl-synced.txt").replace("synchronized: yes", "synchronized: no")
        self.set("timedatectl", text.rstrip("\n"))

    def sudo_needs_password(self) -> None:
        """sudo asks for a password, which nobody can give it here."""
        self.set("sudo", "password")

    def with_desktop(self) -> None:
        """A desktop runs."""
        self.set("default_target", "graphical.target")
        self.set("active", "display-manager.service\ngdm.service\ndocker.service\nnvargus-daemon.service")

    def fragmented(self) -> None:
        """Free memory is in small pieces."""
        self.set_memory(5107, 7620, 3810, 1, 4)


class LocalBoard(Board):
    """A Board whose commands run on this machine, in an environment."""

    def __init__(self, environment: dict[str, str], address: str = f"{USER}@board") -> None:
        super().__init__(address)
        self.environment = environment

    def __enter__(self) -> LocalBoard:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def reconnect(self) -> None:
        """There is no connection to open."""

    def run(
        self,
        script: str,
        *arguments: str,
        name: str = "sh",
        stdin: IO[bytes] | bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        """As Board.run."""
        given = stdin if isinstance(stdin, bytes) else stdin.read() if stdin else b""
        done = subprocess.run(
            ["env", "LC_ALL=C", "sh", "-c", script, name, *arguments],  # noqa: S607  (as on a board)
            input=given,
            capture_output=True,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )
        out = done.stdout.decode(errors="replace")
        for each in out.splitlines():
            if on_line is not None:
                on_line(each)
        return Ran(done.returncode, out, done.stderr.decode(errors="replace"))
