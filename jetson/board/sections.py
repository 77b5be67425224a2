"""What look.sh prints, taken apart: each program's answer or file as the data that `facts` is made of.

Unknown is None throughout: a program is missing, or said something else than every version known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from stages.errors import printable

KIB = 1024
_MISSING = 127
_T = TypeVar("_T")
# What `df` writes after a number: with -k nothing, which are KiB, else powers of 1024.
_SUFFIXES = {"": KIB, "K": KIB, "M": KIB**2, "G": KIB**3, "T": KIB**4}
_DF_LINE = re.compile(
    r"\S+\s+{0}\s+[\d.]+[KMGT]?\s+(-?){0}\s+\d+%\s+(/.*)".format(r"(\d{1,15}(?:\.\d)?)([KMGT]?)")
)

DockerState = Literal["ready", "missing", "denied", "down", "failed"]
Sudo = Literal["root", "passwordless", "password", "missing"]


@dataclass(frozen=True)
class Section:
    """What a program said, or a file holds. `status` is 127 for a program that is missing, 1 for a file."""

    status: int = _MISSING
    text: str = ""

    @property
    def lines(self) -> list[str]:
        """Its lines that are not empty, without surrounding blanks."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @property
    def line(self) -> str | None:
        """The first line of a program that ended well, or of a file."""
        return self.lines[0] if self.status == 0 and self.lines else None

    @property
    def number(self) -> int | None:
        """`line` as a whole number."""
        return _number(self.line or "", None)

    @property
    def yes(self) -> bool | None:
        """`line` where it is yes or no."""
        return {"yes": True, "no": False}.get(self.line or "")


class Sections(dict[str, Section]):
    """Sections by name; one that look.sh did not print is like a missing program."""

    def __missing__(self, name: str) -> Section:
        return Section()


def split(text: str, word: str) -> Sections:
    """The sections of look.sh's output, which was given this word; tabs are its only control characters."""
    found = Sections()
    for part in f"\n{text}".split(f"\n{word} ")[1:]:
        head, _, body = part.partition("\n")
        name, _, status = head.partition(" ")
        text_of = "\n".join(map(_clean, body.split("\n"))).strip("\n")
        found[name] = Section(_number(status, _MISSING), text_of)
    return found


def _number(text: str, otherwise: _T) -> int | _T:
    return int(text) if re.fullmatch(r"\d{1,15}", text) else otherwise


def _clean(line: str) -> str:
    return "\t".join(map(printable, line.split("\t")))


@dataclass(frozen=True)
class Memory:
    """Memory in bytes. The largest contiguous free pieces are `largest_blocks` of `largest_block_bytes`."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_bytes: int | None = None
    largest_block_bytes: int | None = None
    largest_blocks: int | None = None


def memory(meminfo: str, buddyinfo: str, page_bytes: int) -> Memory:
    """From /proc/meminfo and /proc/buddyinfo, which any user may read; `lfb` of tegrastats is the latter."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d{1,15}) kB", meminfo, re.MULTILINE)}
    sizes = (kib.get(name) for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    total, available, swap = (None if size is None else size * KIB for size in sizes)
    return Memory(total, available, swap, *_largest_blocks(buddyinfo, page_bytes))


def _largest_blocks(buddyinfo: str, page_bytes: int) -> tuple[int | None, int | None]:
    """Size in bytes and number of the largest free blocks, over all zones."""
    zones = re.findall(r"^Node \d+, zone +\w+((?: +\d{1,15})+) *$", buddyinfo, re.MULTILINE)
    orders: dict[int, int] = {}
    for zone in zones:
        for order, count in enumerate(map(int, zone.split())):
            orders[order] = orders.get(order, 0) + count
    largest = max((order for order, count in orders.items() if count), default=None)
    return (None, None) if largest is None else (page_bytes << largest, orders[largest])


@dataclass(frozen=True)
class Disk:
    """A filesystem: where it is mounted, its size and what is free for a user, in bytes."""

    mount: str
    size_bytes: int
    free_bytes: int


def disk(text: str) -> Disk | None:
    """From `df`, with -k or -h."""
    found = next(filter(None, (_DF_LINE.fullmatch(line.strip()) for line in text.split("\n"))), None)
    if found is None:
        return None
    size, size_suffix, below_zero, free, free_suffix, mount = found.groups()
    return Disk(mount, _bytes(size, size_suffix), 0 if below_zero else _bytes(free, free_suffix))


def _bytes(number: str, suffix: str) -> int:
    return round(float(number) * _SUFFIXES[suffix])


def writable(mounts: str) -> bool | None:
    """Whether the root filesystem is mounted to be written, from /proc/mounts; the last entry of / counts."""
    flags = re.findall(r"^\S+ / \S+ (\S+)", mounts, re.MULTILINE)
    return "ro" not in flags[-1].split(",") if flags else None


@dataclass(frozen=True)
class Docker:
    """Docker as this user sees it. `error` is what it said when its state is not "ready".

    `containerd_store`: images are kept by containerd, below /var/lib/containerd, not below `root`.
    """

    state: DockerState = "missing"
    error: str = ""
    version: str | None = None
    runtimes: tuple[str, ...] = ()
    default_runtime: str | None = None
    storage_driver: str | None = None
    containerd_store: bool | None = None
    root: str | None = None
    rootless: bool = False


def docker(info: Section, version: Section) -> Docker:
    """From `docker info`, as JSON or plain, and `docker --version`."""
    client = re.match(r"Docker version ([^\s,]+)", version.line or "")
    known = _docker_server(info.text) if info.status != _MISSING else {}
    if server := known.get("ServerVersion"):
        return Docker(
            "ready",
            version=server,
            runtimes=tuple(sorted(known.get("Runtimes") or ())),
            default_runtime=known.get("DefaultRuntime") or None,
            storage_driver=known.get("Driver") or None,
            containerd_store=known.get("containerd_store"),
            root=known.get("DockerRootDir") or None,
            rootless=known["rootless"],
        )
    return Docker(*_docker_trouble(info), version=client[1] if client else None)


def _docker_trouble(info: Section) -> tuple[DockerState, str]:
    if info.status == _MISSING:
        return "missing", ""
    # What hinders docker stands at the line's begin, after what it says of itself and may warn of.
    said = [line for line in info.text.split("\n") if re.match(r"[^\s{].*[^:]$", line)]
    said = [line for line in said if not line.startswith(("WARNING", "errors pretty printing"))]
    error = said[-1] if said else "it did not answer"
    if "permission denied" in error:
        return "denied", error
    return "down" if "annot connect" in error or not said else "failed", error


def _docker_server(text: str) -> dict[str, Any]:
    """The fields of the server in `docker info`, named as in its JSON, and `containerd_store`."""
    line = next((line for line in text.split("\n") if line.startswith("{")), None)
    return _docker_plain(text) if line is None else _docker_json(line)


def _docker_json(line: str) -> dict[str, Any]:
    found = json_object(line)
    names = ("ServerVersion", "DefaultRuntime", "Driver", "DockerRootDir")
    fields = {name: printable(str(found.get(name) or "")) for name in names}
    return {
        **fields,
        "Runtimes": [printable(name) for name in _dict(found.get("Runtimes"))],
        "containerd_store": "io.containerd.snapshotter" in str(found.get("DriverStatus")),
        "rootless": "name=rootless" in str(found.get("SecurityOptions")),
    }


def _docker_plain(text: str) -> dict[str, Any]:
    fields = dict(re.findall(r"^ *([\w -]+): (.*)$", text, re.MULTILINE))
    return {
        "ServerVersion": fields.get("Server Version"),
        "Runtimes": fields.get("Runtimes", "").split(),
        "DefaultRuntime": fields.get("Default Runtime"),
        "Driver": fields.get("Storage Driver"),
        "DockerRootDir": fields.get("Docker Root Dir"),
        "containerd_store": "io.containerd.snapshotter" in fields.get("driver-type", ""),
        "rootless": re.search(r"^ *rootless$", text, re.MULTILINE) is not None,
    }


def json_object(text: str) -> Mapping[str, Any]:
    """The object that a text of JSON holds; empty where it holds none."""
    try:
        return _dict(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def packages(lines: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages by name, from lines of "name version [status]"."""
    fields = map(str.split, lines)  # what it says of packages that are missing is longer
    return {each[0]: each[1] for each in fields if len(each) == 2 or each[2:] == ["installed"]}


def sudo(answer: Section, uid: int | None) -> Sudo:
    """How commands can be run as root, from `sudo -n true`."""
    if uid == 0:
        return "root"
    if answer.status == 0:
        return "passwordless"
    return "missing" if answer.status == _MISSING else "password"


def clock_synchronized(timedatectl: str) -> bool | None:
    """Whether something keeps the clock right, from `timedatectl`."""
    found = re.search(r"System clock synchronized: (yes|no)", timedatectl)
    return None if found is None else found[1] == "yes"


def group_ids(lines: Iterable[str]) -> dict[str, int]:
    """Numbers of groups by name, from `getent group`."""
    fields = (line.split(":") for line in lines)
    numbers = {each[0]: _number(each[2], None) for each in fields if len(each) >= 3}
    return {name: number for name, number in numbers.items() if number is not None}


def devices(lines: Iterable[str]) -> dict[str, int | None]:
    """Device files that exist, and the number of the group each belongs to, from "path TAB number"."""
    pairs = (line.partition("\t") for line in lines)
    return {path: _number(gid, None) for path, _, gid in pairs}


@dataclass(frozen=True)
class Camera:
    """A camera at /dev/videoN. `bus` is "csi", "usb", or "" where it is something else or unknown."""

    device: str
    name: str
    bus: str = ""


def cameras(sysfs: Iterable[str], v4l2: str) -> tuple[Camera, ...]:
    """Cameras from lines of "device TAB name TAB driver TAB path in /sys", and from v4l2-ctl --list-devices.

    The latter is not installed on a board by default.
    """
    found = {camera.device: camera for camera in _listed_cameras(v4l2)}
    for line in sysfs:
        device, _, rest = line.partition("\t")
        found[device] = Camera(device, rest.partition("\t")[0], _bus(rest))
    return tuple(sorted(found.values(), key=lambda camera: (len(camera.device), camera.device)))


def _listed_cameras(v4l2: str) -> Iterable[Camera]:
    title = ""
    for line in v4l2.split("\n"):
        if not line.startswith(("\t", " ")):
            title = line.strip().rstrip(":")
        elif re.fullmatch(r"/dev/video\d+", line.strip()):
            yield Camera(line.strip(), re.sub(r" \([^()]*\)$", "", title), _bus(title))


def _bus(text: str) -> str:
    """CSI sensors hang off Tegra's video input; an USB camera's path holds its port."""
    if re.search(r"vi-output|tegra-capture|tegra-camrtc|tegra-video", text):
        return "csi"
    return "usb" if re.search(r"uvcvideo|/usb\d|\(usb-", text) else ""
