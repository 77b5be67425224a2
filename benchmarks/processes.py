"""Processes of this machine (Linux), by what /proc says of them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded here: a forked process should load nothing
_PR_SET_PDEATHSIG = 1


def die_with_starter() -> None:
    """As `preexec_fn`: the process is killed when the thread that starts it ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """The living processes that a process has started itself, whatever their session."""
    return sorted(child for child, parent, _ in _living() if parent == pid)


def command_of(pid: int) -> str:
    """The command line of a process with spaces between its parts, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    return any(pid == living for living, _, _ in _living())


def session_of(leader: int) -> list[int]:
    """The living processes of a session."""
    return sorted(pid for pid, _, session in _living() if session == leader)


def _living() -> Iterator[tuple[int, int, int]]:
    """Number, parent and session of each process (proc_pid_stat(5)); zombies are left out."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, _, session = path.read_text(encoding="latin-1").rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(parent), int(session)


def peak_mb(pid: int) -> float:
    """The largest resident size of a running process so far, 10^6 bytes. Raises RuntimeError for none."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} tells no VmHWM")
