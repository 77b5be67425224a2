"""Limits of memory and cores, from files as control groups of versions 1 and 2 lay them out."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from stages.errors import EngineError
from stages.machine import (
    MB,
    Ceiling,
    Need,
    ceilings,
    cores,
    default_threads,
    forget_peak,
    meminfo,
    memory_ran_out,
    own_ceilings,
    peak_bytes,
    require,
)

TASKSET = shutil.which("taskset") or "taskset"
NEVER = "9223372036854771712"  # what version 1 says where nothing is set
NEED = Need(200 * MB, 900 * MB)


def root(folder: Path, groups: str, files: Mapping[str, str]) -> Path:
    """A root with this /proc/self/cgroup, and these files below /sys/fs/cgroup."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{n}": t for n, t in files.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


V2 = "0::/system.slice/pedsam.service"
V1 = "12:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n1:name=systemd:/docker/1f\n0::/"
MEMORY = {
    "v2": (
        V2,
        {"system.slice/pedsam.service/memory.max": "150000000", "system.slice/memory.max": "max"},
        150,
    ),
    "v2, a group above has less": (
        V2,
        {"system.slice/pedsam.service/memory.max": "max", "system.slice/memory.max": "100000000"},
        100,
    ),
    "v2 in a container": ("0::/", {"memory.max": "120000000"}, 120),
    "v2 in a container that shows the host's path": ("0::/docker/1f", {"memory.max": "120000000"}, 120),
    "v2 outside of its namespace": ("0::/../../system.slice", {"memory.max": "120000000"}, 120),
    "v2 without a limit": (V2, {"system.slice/pedsam.service/memory.max": "max"}, None),
    "v1": (V1, {"memory/docker/1f/memory.limit_in_bytes": "150000000"}, 150),
    "v1, a group above has less": (
        V1,
        {
            "memory/docker/1f/memory.limit_in_bytes": NEVER,
            "memory/docker/memory.limit_in_bytes": "100000000",
            "memory/memory.limit_in_bytes": NEVER,
        },
        100,
    ),
    "v1 in a container that shows the host's path": (V1, {"memory/memory.limit_in_bytes": "120000000"}, 120),
    "v2 beside v1": (
        "4:memory:/a\n0::/a",
        {"memory/a/memory.limit_in_bytes": NEVER, "unified/a/memory.max": "90000000"},
        90,
    ),
    "another's group": (V2, {"user.slice/memory.max": "1000"}, None),
}


@pytest.mark.parametrize("name", MEMORY)
def test_the_least_limit_of_memory_holds(tmp_path: Path, name: str) -> None:
    groups, files, expected_mb = MEMORY[name]
    given = ceilings(root(tmp_path, groups, files))
    if expected_mb is None:
        require(NEED, "an edge", given)
        return
    assert min(each.bytes for each in given) == expected_mb * MB
    with pytest.raises(EngineError) as caught:
        require(NEED, "an edge with mini", given)
    allowed = f"its container or service allows {expected_mb} MB ("
    assert str(caught.value).startswith(f"an edge with mini needs about 200 MB of memory, and {allowed}")
    assert str(caught.value).endswith("; raise that limit, or use a smaller model")
    require(Need(expected_mb * MB, 900 * MB), "an edge", given)


SWAP = {
    "v2": (V2, {"system.slice/pedsam.service/memory.max": "150000000"}, 150 + 102, True),
    "v2 with less for the group": (
        "0::/",
        {"memory.max": "150000000", "memory.swap.max": "30000000"},
        180,
        True,
    ),
    "v2 with all there is": ("0::/", {"memory.max": "150000000", "memory.swap.max": "max"}, 252, True),
    "v2, a group above has none": (
        V2,
        {"system.slice/pedsam.service/memory.max": "150000000", "system.slice/memory.swap.max": "0"},
        150,
        False,
    ),
    "v1": (V1, {"memory/docker/1f/memory.limit_in_bytes": "150000000"}, 252, True),
    "v1 with a limit of both": (
        V1,
        {
            "memory/docker/1f/memory.limit_in_bytes": "150000000",
            "memory/docker/1f/memory.memsw.limit_in_bytes": "180000000",
        },
        180,
        True,
    ),
    "v1 without swap": (
        V1,
        {
            "memory/docker/1f/memory.limit_in_bytes": "150000000",
            "memory/docker/1f/memory.memsw.limit_in_bytes": "150000000",
        },
        150,
        False,
    ),
    "v1 without a limit of both": (
        V1,
        {
            "memory/docker/1f/memory.limit_in_bytes": "150000000",
            "memory/docker/1f/memory.memsw.limit_in_bytes": NEVER,
        },
        252,
        True,
    ),
}


@pytest.mark.parametrize("name", SWAP)
def test_a_group_has_the_swap_that_is_free_unless_it_is_limited(tmp_path: Path, name: str) -> None:
    groups, files, expected_mb, told = SWAP[name]
    here = root(tmp_path, groups, files)
    (here / "proc/meminfo").write_text("SwapFree: 100000 kB\n")
    (ceiling,) = ceilings(here)
    assert ceiling.bytes // MB == expected_mb
    assert (" allows {size} with swap (" in ceiling.told) is told


def test_free_memory_counts_with_swap_and_with_what_this_process_has(tmp_path: Path) -> None:
    here = root(tmp_path, V2, {})
    (here / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 100000 kB\nSwapFree: 20000 kB\n")
    (here / "proc/self/status").write_text("Name:\tpython\nVmRSS:\t   30000 kB\n")
    (ceiling,) = ceilings(here)
    assert ceiling.bytes == 150_000 * 1024
    with pytest.raises(
        EngineError,
        match=r"^a site needs about 200 MB of memory, and this machine has 153 MB for it, with swap and what "
        r"it has taken already; end other programs, or use a smaller model$",
    ):
        require(NEED, "a site", [ceiling])


def test_address_space_is_another_thing_than_memory(tmp_path: Path) -> None:
    given = ceilings(tmp_path, address_space=500 * MB)
    with pytest.raises(
        EngineError,
        match=r"^a site needs about 900 MB of address space, and `ulimit -v` allows 500 MB of address space; "
        r"raise that limit, or use a smaller model$",
    ):
        require(NEED, "a site", given)
    assert given[0].left(Need(600 * MB, 499 * MB)) == MB


def test_without_limits_nothing_is_refused(tmp_path: Path) -> None:
    assert ceilings(tmp_path) == ()
    require(NEED, "a site", ())


def test_when_memory_ran_out_the_tightest_limits_are_told() -> None:
    given = [
        Ceiling(500 * MB, "`ulimit -v` allows {size}", "", virtual=True),
        Ceiling(9000 * MB, "a group allows {size}", ""),
        Ceiling(300 * MB, "another allows {size}", ""),
    ]
    assert memory_ran_out(given) == (
        "memory ran out: `ulimit -v` allows 500 MB and another allows 300 MB; allow this process more, or "
        "use a smaller model"
    )


CORES = {
    "v2": (V2, {"system.slice/pedsam.service/cpu.max": "200000 100000"}, 2),
    "v2, part of a core": (V2, {"system.slice/pedsam.service/cpu.max": "150000 100000"}, 2),
    "v2, less than one": (V2, {"system.slice/pedsam.service/cpu.max": "10000 100000"}, 1),
    "v2, a group above": (
        V2,
        {"system.slice/pedsam.service/cpu.max": "max 100000", "system.slice/cpu.max": "300000 100000"},
        3,
    ),
    "v2 without": (V2, {"system.slice/pedsam.service/cpu.max": "max 100000"}, 8),
    "v1": (
        V1,
        {
            "cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "200000",
            "cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "v1 under its short name": (
        V1,
        {"cpu/docker/1f/cpu.cfs_quota_us": "50000", "cpu/docker/1f/cpu.cfs_period_us": "20000"},
        3,
    ),
    "v1 without": (
        V1,
        {"cpu/docker/1f/cpu.cfs_quota_us": "-1", "cpu/docker/1f/cpu.cfs_period_us": "100000"},
        8,
    ),
    "more than there are": (V2, {"system.slice/pedsam.service/cpu.max": "6400000 100000"}, 8),
}


@pytest.mark.parametrize("name", CORES)
def test_cores_by_quota(tmp_path: Path, name: str) -> None:
    groups, files, expected = CORES[name]
    here = root(tmp_path, groups, files)
    assert cores(here, affinity=8) == expected
    assert default_threads(here, affinity=8, total=8) == (None if expected == 8 else expected)


def test_cores_by_affinity(tmp_path: Path) -> None:
    """Of taskset and of a cpuset: the kernel knows both as one."""
    assert cores(tmp_path, affinity=3) == 3
    assert default_threads(tmp_path, affinity=3, total=8) == 3
    script = "from pathlib import Path; from stages.machine import cores; print(cores(Path('/nowhere')))"
    first = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [TASKSET, "-c", str(first), sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n"


def test_this_machine_can_be_read() -> None:
    assert meminfo()["MemTotal"] > 100 * MB
    assert cores() >= 1
    assert any(not ceiling.virtual for ceiling in own_ceilings())
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    assert any(ceiling.virtual for ceiling in own_ceilings()) is (limit != resource.RLIM_INFINITY)


def test_the_peak_of_memory_is_counted_anew() -> None:
    taken = np.ones(300 << 20, np.uint8)
    with_it = peak_bytes()
    assert with_it is not None
    assert with_it > taken.nbytes
    del taken
    assert forget_peak()
    without_it = peak_bytes()
    assert without_it is not None
    assert without_it < with_it - (200 << 20)


def test_a_peak_that_linux_does_not_tell(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path) is None
    assert not forget_peak(tmp_path)
