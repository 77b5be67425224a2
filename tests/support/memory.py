"""How much memory a process took."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

KEPT_BYTES = 1e9  # a process may keep so much from one test to the next


def peak_bytes() -> int:
    """The largest resident size of this process since it began or since `forget_peak`.

    Not ru_maxrss, which a process inherits from its parent.
    """
    return _status_bytes("VmHWM")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    """A line of proc(5), status, that counts kilobytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Count from the present size again, without what was freed and kept. Source: proc(5), clear_refs.

    Training has the C library keep what is freed, and every library keeps some: over thousands of tests in
    one process that adds up to more than any one of them takes.
    """
    if _resident_bytes() > KEPT_BYTES:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def children_peak_bytes() -> int:
    """The largest resident size of any one child so far, of those that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
