"""What there is on a board, read once over one connection by jetson/scripts/look.sh."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jetson.board import sections
from jetson.board.hardware import Hardware, hardware
from jetson.board.releases import L4T, parse_l4t
from jetson.board.sections import Camera, Disk, Docker, Memory, Sections, Sudo
from jetson.connection import Board, BoardError

_NAME = "look.sh"
LOOK_S = 180  # docker and sudo are given 20 s each there


@dataclass(frozen=True, kw_only=True)
class BoardFacts:
    """A board as look.sh found it. None is unknown everywhere; texts hold no control characters.

    `clock_offset_s` is the board's clock minus the workstation's. `groups` are the user's in this connection,
    `registered_groups` those that a new one would have. `devices` are device files with the number of their
    group. `docker_disk` and `containerd_disk` are the filesystems of docker's root and of
    /var/lib/containerd, or of where they would be made.
    """

    user: str
    home: str
    host: str = ""
    uid: int | None = None
    architecture: str | None = None
    kernel: str | None = None
    hardware: Hardware = field(default_factory=Hardware)
    l4t: L4T | None = None
    memory: Memory = field(default_factory=Memory)
    desktop: bool | None = None
    default_target: str | None = None
    clock_offset_s: float | None = None
    clock_synchronized: bool | None = None
    root_writable: bool | None = None
    home_writable: bool | None = None
    home_disk: Disk | None = None
    docker_disk: Disk | None = None
    containerd_disk: Disk | None = None
    docker: Docker = field(default_factory=Docker)
    docker_configured_runtimes: tuple[str, ...] = ()
    toolkit_version: str | None = None
    sudo: Sudo = "missing"
    groups: tuple[str, ...] = ()
    registered_groups: tuple[str, ...] = ()
    group_ids: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int | None] = field(default_factory=dict)
    cameras: tuple[Camera, ...] = ()
    argus_socket: bool | None = None

    @property
    def video_gid(self) -> int | None:
        """The number of the group that may use cameras and the GPU's nodes."""
        return self.group_ids.get("video")

    @property
    def render_gid(self) -> int | None:
        """The number of the group of /dev/dri/renderD*: in a container, CUDA fails for a user without it."""
        nodes = [gid for path, gid in self.devices.items() if path.startswith("/dev/dri/renderD")]
        return next((gid for gid in nodes if gid), self.group_ids.get("render"))


def look(board: Board, now_s: Callable[[], float] = time.time) -> BoardFacts:
    """Read the facts of a board. `now_s` is the workstation's clock, in seconds since 1970.

    Raises BoardError when the answer is incomplete, ConnectionLost when the connection breaks.
    """
    word = secrets.token_hex(16)
    arrived: list[float] = []

    def note(_: str) -> None:
        if not arrived:  # the first lines are the board's clock
            arrived.append(now_s())

    ran = board.script(_NAME, word, on_line=note, timeout_s=LOOK_S)
    if ran.status:
        raise BoardError(f"the board could not be read: {ran.last_line}", ran.err)
    return read_facts(ran.out, word, arrived[0] if arrived else None)


def read_facts(text: str, word: str, now_s: float | None = None) -> BoardFacts:
    """Facts from look.sh's output, which was given this word. `now_s` is the workstation's clock when the
    board read its own. Raises BoardError when the output is cut off."""
    found = sections.split(text, word)
    if "end" not in found:
        raise BoardError("what the board says of itself was cut off; run the command again")
    clock = found["clock"].number
    return BoardFacts(
        **_account(found),  # type: ignore[arg-type]
        **_system(found),  # type: ignore[arg-type]
        **_storage(found),  # type: ignore[arg-type]
        **_devices(found),  # type: ignore[arg-type]
        clock_offset_s=None if clock is None or now_s is None else clock - now_s,
        clock_synchronized=sections.clock_synchronized(found["timedatectl"].text),
    )


def _account(found: Sections) -> dict[str, object]:
    uid = found["uid"].number
    return {
        "user": found["user"].line or "",
        "uid": uid,
        "home": found["home"].line or "",
        "host": found["host"].line or "",
        "sudo": sections.sudo(found["sudo"], uid),
        "groups": tuple((found["groups"].line or "").split()),
        "registered_groups": tuple((found["registered_groups"].line or "").split()),
        "group_ids": sections.group_ids(found["group_ids"].lines),
    }


def _system(found: Sections) -> dict[str, object]:
    memory = sections.memory(
        found["meminfo"].text, found["buddyinfo"].text, found["page_size"].number or 4096
    )
    packages = sections.packages(found["packages"].lines)
    desktops = found["desktops"].lines
    return {
        "architecture": found["architecture"].line,
        "kernel": found["kernel"].line,
        "hardware": hardware(
            found["model"].line or "",
            tuple(found["compatible"].lines),
            found["chosen_ids"].text,
            found["boot_control"].text,
            memory.total_bytes,
        ),
        "l4t": parse_l4t(found["release"].text, packages.get("nvidia-l4t-core")),
        "memory": memory,
        # `systemctl is-active` says one word a unit, and a sentence where there is no systemd
        "desktop": "active" in desktops if {"active", "inactive"} & set(desktops) else None,
        "default_target": found["default_target"].line,
        "toolkit_version": packages.get("nvidia-container-toolkit"),
    }


def _storage(found: Sections) -> dict[str, object]:
    configured = sections.json_object(found["daemon_json"].text).get("runtimes")
    return {
        "root_writable": sections.writable(found["root_mount"].text),
        "home_writable": found["home_writable"].yes,
        "home_disk": sections.disk(found["free_home"].text),
        "docker_disk": sections.disk(found["free_docker"].text),
        "containerd_disk": sections.disk(found["free_containerd"].text),
        "docker": sections.docker(found["docker_info"], found["docker_version"]),
        "docker_configured_runtimes": tuple(configured) if isinstance(configured, dict) else (),
    }


def _devices(found: Sections) -> dict[str, object]:
    return {
        "devices": sections.devices(found["devices"].lines),
        "cameras": sections.cameras(found["cameras"].lines, found["v4l2"].text),
        "argus_socket": found["argus_socket"].yes,
    }
