"""How glibc's malloc keeps memory, for processes that run for days.

By default each thread gets an arena of its own, eight a core, and the size from which arrays are mapped apart
grows to 32 MiB with what was freed. Frames and embeddings then lie between small things in many arenas, and
what is free there is not given back.

Source: mallopt(3).
"""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
ARENAS = 2
MAPPED_APART = 256 * 1024  # bytes from which an array is given back as soon as it is freed


def give_memory_back() -> None:
    """Have this process keep little of what it has freed. Without glibc this does nothing."""
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, MAPPED_APART)
