"""What hinders a board from becoming an edge, as data: one function a question, from facts to findings.

A finding that is refused stops `flash`, with its sentence; a warning is shown and `flash` goes on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

from jetson.board.docker_checks import check_docker, check_runtime, check_storage_driver, check_toolkit
from jetson.board.facts import BoardFacts
from jetson.board.findings import MIB, Finding, Level, Wanted, size
from jetson.board.hardware import ORIN
from jetson.board.releases import MEMORY_FAULT, OFFERED, base_for, is_newer, name_of, refusal
from jetson.board.sections import Disk

CLOCK_S = 60  # sites' certificates and tokens are checked against the clock
LOAD_TIMES = 2  # `docker load` holds an image's layers twice for a while
VFS_TIMES = 10  # the vfs driver copies all that is below for each layer
# Fewer free blocks than this of the largest size: boards that fail to allocate for the GPU show 1 or 2.
FEW_BLOCKS = 3
LARGE_BLOCK_BYTES = 4 * MIB
_NODES = ("/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")


def check_board(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """A Jetson of the Orin family: its chip decides, not what its vendor calls it."""
    board = facts.hardware
    if board.chip == ORIN:
        yield Finding("ok", f"the board is a {board.name}")
    elif board.chip is None and facts.l4t is None:
        what = f"{facts.host or wanted.address} is no Jetson ({facts.architecture or 'unknown architecture'})"
        yield Finding("refused", f"{what}; flash needs a Jetson of the Orin family that runs JetPack")
    else:
        chip = board.chip or "an unknown chip"
        yield Finding(
            "refused", f"the board is a {board.name} with {chip}; flash needs the Orin family ({ORIN})"
        )


def check_release(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """An L4T that the image serves."""
    if facts.l4t is None:
        if facts.hardware.chip:
            what = (
                "neither /etc/nv_tegra_release nor package nvidia-l4t-core says which JetPack the board runs"
            )
            yield Finding("refused", f"{what}; flash needs {OFFERED[0].releases}")
        return
    if why := refusal(facts.l4t):
        yield Finding("refused", why)
        return
    base = base_for(facts.l4t)
    if base and is_newer(facts.l4t, base):
        newest = f"is newer than all that this pedsam knows ({base.releases})"
        yield Finding("warning", f"the board's {name_of(facts.l4t)} {newest}; nobody has tried it")
    else:
        yield Finding("ok", f"the board runs {name_of(facts.l4t)}")
    if (
        base
        and facts.kernel
        and not is_newer(facts.l4t, base)
        and not facts.kernel.startswith(f"{base.kernel}.")
    ):
        what = f"kernel {facts.kernel} does not belong to {name_of(facts.l4t)}, which has {base.kernel}"
        yield Finding("warning", f"{what}: an upgrade may be half done", wanted.command("dpkg --audit"))


def check_memory_fault(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """A release that many report to fail where others do not."""
    if facts.l4t in MEMORY_FAULT:
        what = f"L4T {facts.l4t} is reported to fail at allocating about 1 GB for the GPU (NvMap error 12)"
        yield Finding("warning", f"{what}; 36.4.4 is reported not to, and 36.5 less often")


def check_writable(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """A root filesystem that errors made read-only takes nothing."""
    if facts.root_writable is False:
        what = "the board's root filesystem is read-only, as Linux leaves it after disk errors"
        look = wanted.command("sudo dmesg | grep -i -e ext4 -e nvme -e mmc -e remount | tail")
        yield Finding(
            "refused", f"{what}; see what happened, reboot, and if it returns replace the disk", look
        )
    elif facts.home_writable is False:
        fix = wanted.command(f"sudo chown {shlex.quote(facts.user)} {shlex.quote(facts.home)}")
        yield Finding("refused", f"{facts.user} cannot write to the home folder {facts.home}", fix)


def check_clock(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """With a wrong clock certificates are not yet valid, or no longer. Boards often lack a clock battery."""
    offset = facts.clock_offset_s
    if offset is None:
        yield Finding("warning", "the board's clock could not be read")
    elif abs(offset) <= CLOCK_S:
        yield Finding("ok", f"the board's clock is within {CLOCK_S} s of this machine's")
    else:
        where = "behind" if offset < 0 else "ahead of"
        what = f"the board's clock is {_duration(abs(offset))} {where} this machine's"
        level: Level = "warning" if wanted.sets_clock else "refused"
        yield Finding(level, what, set_clock(facts, wanted))
    if offset is not None and facts.clock_synchronized is False:
        what = "nothing keeps the board's clock right, and many boards forget it without power"
        yield Finding("warning", what, wanted.command("sudo timedatectl set-ntp true"))


def set_clock(facts: BoardFacts, wanted: Wanted) -> str:
    """The line that sets the board's clock by this machine's, at the moment it is entered."""
    terminal = "" if facts.sudo in ("root", "passwordless") else "-t "
    root = "" if facts.sudo == "root" else "sudo "
    return f'ssh {terminal}{shlex.quote(wanted.address)} "{root}date -u -s @$(date +%s)"'


def check_memory(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """Memory that is free for the edge. CPU and GPU share it on a Jetson."""
    free, needed = facts.memory.available_bytes, wanted.memory_bytes
    if free is None:
        return
    if needed is not None and free < needed:
        more = "--headless frees up to 0.9 GB" if _desktop_stays(facts, wanted) else "end what else runs"
        what = f"{size(free)} of memory are free, and the edge needs about {size(needed)}"
        yield Finding("warning", f"{what}; {more}", wanted.command("top -b -n 1 -o %MEM | head -n 20"))
    else:
        yield Finding("ok", f"{size(free)} of {size(facts.memory.total_bytes or free)} of memory are free")


def check_blocks(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The GPU takes contiguous memory: free memory in small pieces is as good as none."""
    blocks, block = facts.memory.largest_blocks, facts.memory.largest_block_bytes
    if blocks is None or block is None or (blocks >= FEW_BLOCKS and block >= LARGE_BLOCK_BYTES):
        return
    what = (
        f"free memory is in small pieces (largest: {blocks} of {size(block)}), of which the GPU may get none"
    )
    compact = wanted.command("sync; sudo sysctl -w vm.drop_caches=3 vm.compact_memory=1")
    yield Finding("warning", f"{what}; flash frees caches before it builds, a reboot helps most", compact)


def check_swap(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """Building engines takes more memory than running them."""
    if facts.memory.swap_bytes == 0:
        steps = ("fallocate -l 8G", "chmod 600", "mkswap", "swapon")
        fix = " && ".join(f"sudo {step} /swapfile" for step in steps)
        what = "the board has no swap: building engines may run out of memory"
        yield Finding("warning", what, wanted.command(fix))


def _desktop_stays(facts: BoardFacts, wanted: Wanted) -> bool:
    return facts.desktop is True and not wanted.headless


def check_desktop(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """A desktop takes memory that models need."""
    if _desktop_stays(facts, wanted):
        what = "a desktop runs on the board and takes up to 0.9 GB of memory; flash --headless turns it off"
        yield Finding("warning", what, wanted.command("sudo systemctl isolate multi-user.target"))


def check_disks(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """Room for the image where docker keeps its layers, and for the bundle and its engines at home."""
    image = wanted.image_bytes or 0
    needed = image * (VFS_TIMES if facts.docker.storage_driver == "vfs" else LOAD_TIMES)
    root = facts.docker.root or "/var/lib/docker"
    yield from _room(root, facts.docker_disk, needed, wanted, "docker system prune --all")
    if facts.docker.containerd_store:
        yield from _room(
            "/var/lib/containerd", facts.containerd_disk, needed, wanted, "docker system prune --all"
        )
    yield from _room(
        facts.home, facts.home_disk, wanted.home_bytes, wanted, f"du -xh -d 1 {shlex.quote(facts.home)}"
    )


def _room(place: str, disk: Disk | None, needed: int, wanted: Wanted, command: str) -> Iterator[Finding]:
    if disk is None:
        yield Finding("warning", f"how much room there is at {place} could not be read")
    elif disk.free_bytes < needed:
        what = f"{size(disk.free_bytes)} are free at {place} (on {disk.mount}), and {size(needed)} are needed"
        yield Finding("refused", f"{what}; make room", wanted.command(command))
    else:
        yield Finding("ok", f"{size(disk.free_bytes)} are free at {place}")


def check_sudo(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The service, the power mode and the clocks need root; no password is asked for or stored."""
    if wanted.no_root or facts.sudo in ("root", "passwordless"):
        return
    if facts.sudo == "missing":
        yield Finding("refused", "the board has no sudo; connect as root, or use --no-root")
        return
    line = f'printf "%s ALL=(ALL) NOPASSWD: ALL\\n" {shlex.quote(facts.user)}'
    what = (
        f"sudo asks {facts.user} for a password, which flash does not do; allow it without, or use --no-root"
    )
    yield Finding("refused", what, wanted.command(f"{line} | sudo tee /etc/sudoers.d/pedsam"))


def check_cameras(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The cameras that the edge is to use."""
    there = ", ".join(f"{camera.device} ({camera.name})" for camera in facts.cameras) or "none"
    for source in wanted.sources:
        if source.startswith("csi://"):
            yield from _csi(facts, wanted, source, there)
        elif match := re.fullmatch(r"(?:/dev/video)?(\d+)", source):
            device = f"/dev/video{match[1]}"
            camera = next((camera for camera in facts.cameras if camera.device == device), None)
            if camera:
                yield Finding("ok", f"source {source} is {camera.name}")
            elif device not in facts.devices:
                yield Finding("refused", f"source {source}: the board has no {device}; its cameras: {there}")


def _csi(facts: BoardFacts, wanted: Wanted, source: str, there: str) -> Iterator[Finding]:
    sensors = [camera for camera in facts.cameras if camera.bus == "csi"]
    if not sensors:
        what = f"source {source}: the board sees no CSI camera; its cameras: {there}"
        setup = "sudo /opt/nvidia/jetson-io/jetson-io.py"
        yield Finding("refused", f"{what}; check the cable and name the sensor", wanted.command(setup))
    elif facts.argus_socket is False:
        what = f"source {source}: NVIDIA's camera service does not run (/tmp/argus_socket is missing)"
        yield Finding("refused", what, wanted.command("sudo systemctl restart nvargus-daemon"))
    else:
        yield Finding("ok", f"source {source}: CSI camera {', '.join(camera.name for camera in sensors)}")


def check_gpu_nodes(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The GPU's driver is loaded, and its groups are known, which a container's user must be in."""
    if facts.hardware.chip != ORIN:
        return
    if not any(node in facts.devices for node in _NODES):
        what = "the GPU's driver is not loaded: none of its device files is there; reboot the board"
        yield Finding("warning", what, wanted.command("sudo reboot"))
    missing = [
        name for name, gid in (("video", facts.video_gid), ("render", facts.render_gid)) if gid is None
    ]
    if missing:
        what = f"the board has no group {' and no group '.join(missing)}, which own the GPU's device files"
        yield Finding("warning", f"{what}: CUDA may fail in the container")


def _duration(seconds: float) -> str:
    for length, name in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


Check = Callable[[BoardFacts, Wanted], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_board,
    check_release,
    check_memory_fault,
    check_writable,
    check_clock,
    check_sudo,
    check_docker,
    check_runtime,
    check_toolkit,
    check_storage_driver,
    check_disks,
    check_memory,
    check_blocks,
    check_swap,
    check_desktop,
    check_gpu_nodes,
    check_cameras,
)


def check(facts: BoardFacts, wanted: Wanted) -> list[Finding]:
    """Every finding on a board, in the order in which a person would mend them."""
    return [finding for each in CHECKS for finding in each(facts, wanted)]
