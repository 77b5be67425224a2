"""What this process may take of its machine: memory and cores, as a shell, a container or a service allows.

Read from files below a root, which is / but in tests: /proc/meminfo, /proc/self/cgroup, and the control
groups under /sys/fs/cgroup in their versions 2 (memory.max, memory.swap.max, cpu.max) and 1
(memory.limit_in_bytes, memory.memsw.limit_in_bytes, cpu.cfs_quota_us). A group has the limits of every group
above it too.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.errors import EngineError

ROOT = Path("/")
MB = 1_000_000


@dataclass(frozen=True)
class Need:
    """What a process takes, estimated: of memory, and of address space, of which libraries map far more."""

    resident_bytes: int
    virtual_bytes: int


@dataclass(frozen=True)
class Ceiling:
    """The most that a process may take, of address space or of memory. `told` says what sets it, `remedy`
    what to do about it."""

    bytes: int
    told: str
    remedy: str
    virtual: bool = False

    def left(self, need: Need) -> int:
        """Bytes beside this need; negative when there is no room for it."""
        return self.bytes - (need.virtual_bytes if self.virtual else need.resident_bytes)


def ceilings(root: Path = ROOT, address_space: int | None = None) -> tuple[Ceiling, ...]:
    """All that is set. `address_space` is the limit of `ulimit -v` in bytes; None: none."""
    return (*_address_space(address_space), *_of_groups(root), *_of_the_machine(root))


def own_ceilings() -> tuple[Ceiling, ...]:
    """Those of this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return ceilings(ROOT, None if limit == resource.RLIM_INFINITY else limit)


def require(need: Need, who: str, given: Sequence[Ceiling]) -> None:
    """Raise EngineError when there is no room for this need; `who` has it: "an edge with mini"."""
    for ceiling in given:
        if ceiling.left(need) < 0:
            kind = "address space" if ceiling.virtual else "memory"
            wanted = (ceiling.bytes - ceiling.left(need)) // MB
            raise EngineError(
                f"{who} needs about {wanted} MB of {kind}, and {_told(ceiling)}; {ceiling.remedy}, or use a "
                "smaller model"
            )


def memory_ran_out(given: Sequence[Ceiling]) -> str:
    """A sentence for when an allocation failed all the same."""
    kinds = [[each for each in given if each.virtual is virtual] for virtual in (True, False)]
    tightest = [_told(min(each, key=lambda ceiling: ceiling.bytes)) for each in kinds if each]
    return f"memory ran out: {' and '.join(tightest)}; allow this process more, or use a smaller model"


def cores(root: Path = ROOT, affinity: int | None = None) -> int:
    """Cores that this process may keep busy: those it may run on, `affinity` of them, or less where its
    control groups have a quota of processor time, rounded up."""
    allowed = affinity or len(os.sched_getaffinity(0))
    return max(1, min([allowed, *map(math.ceil, _quotas(root))]))


def default_threads(root: Path = ROOT, affinity: int | None = None, total: int | None = None) -> int | None:
    """Threads for an engine where nobody says how many; None: the library's choice, as it may use all."""
    allowed = cores(root, affinity)
    return allowed if allowed < (total or os.cpu_count() or 1) else None


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    lines = (line.split() for line in _lines(root / "proc/meminfo"))
    return {name.rstrip(":"): int(size) * 1024 for name, size, *_ in lines}


def peak_bytes(root: Path = ROOT) -> int | None:
    """The most memory that this process has held since it began, or since `forget_peak`; None where Linux
    does not tell."""
    for line in _lines(root / "proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def forget_peak(root: Path = ROOT) -> bool:
    """Have the peak counted from what is held now; False where Linux does not let this process."""
    try:
        (root / "proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _told(ceiling: Ceiling) -> str:
    return ceiling.told.format(size=f"{ceiling.bytes // MB} MB")


def _address_space(limit: int | None) -> Iterator[Ceiling]:
    if limit is not None:
        yield Ceiling(limit, "`ulimit -v` allows {size} of address space", "raise that limit", virtual=True)


def _of_groups(root: Path) -> Iterator[Ceiling]:
    """Of memory and swap together: in version 1 the second limit is of both, in version 2 of swap alone."""
    folders = tuple(_groups(root, "memory"))
    free = meminfo(root).get("SwapFree", 0)
    swap = min([free, *(bound for folder in folders for bound in _bounds(folder / "memory.swap.max"))])
    for folder in folders:
        for bound in _bounds(folder / "memory.max"):
            yield _of_group(folder / "memory.max", bound, bound + swap)
        for bound in _bounds(folder / "memory.limit_in_bytes"):
            both = min([bound + free, *_bounds(folder / "memory.memsw.limit_in_bytes")])
            yield _of_group(folder / "memory.limit_in_bytes", bound, both)


def _of_group(file: Path, memory: int, with_swap: int) -> Ceiling:
    size = "{size} with swap" if with_swap > memory else "{size}"
    told = f"its container or service allows {size} ({file.parent.name or 'cgroup'}/{file.name})"
    return Ceiling(with_swap, told, "raise that limit")


def _bounds(file: Path) -> list[int]:
    """What a file limits to, none where it is not there."""
    return [int(line) for line in _lines(file) if line != "max"]


def _of_the_machine(root: Path) -> Iterator[Ceiling]:
    memory = meminfo(root)
    if "MemAvailable" in memory:
        own = sum(
            int(line.split()[1]) * 1024 for line in _lines(root / "proc/self/status") if "VmRSS:" in line
        )
        free = memory["MemAvailable"] + memory.get("SwapFree", 0) + own
        told = "this machine has {size} for it, with swap and what it has taken already"
        yield Ceiling(free, told, "end other programs")


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of processor time."""
    for folder in _groups(root, "cpu"):
        for line in _lines(folder / "cpu.max"):
            quota, period = line.split()
            if quota != "max":
                yield int(quota) / int(period)
        for quota in _lines(folder / "cpu.cfs_quota_us"):
            if int(quota) > 0:
                yield from (int(quota) / int(period) for period in _lines(folder / "cpu.cfs_period_us"))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups with a controller, and of those above, if they are there.

    In a container the folder that is mounted is often its own group, whatever /proc/self/cgroup says.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (controller, controllers) if controllers else ("", "unified")
        group = PurePosixPath(path.lstrip("/"))
        for mount in dict.fromkeys(mounts):
            base = root / "sys/fs/cgroup" / mount
            yield from (
                base / each for each in dict.fromkeys((group, *group.parents)) if ".." not in each.parts
            )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # this version of control groups is not there, or has no such limit
        return []
