"""malloc's settings, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A large array that was freed raises the size from which malloc maps apart; the second is smaller than that.
SCRIPT = """
import ctypes
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
{settings}
del_me = bytearray(8 << 20)
del del_me
before = mallinfo2().hblkhd
held = bytearray(1 << 20)
print(mallinfo2().hblkhd - before >= 1 << 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("settings", "apart"),
    [("", "False"), ("from stages.allocator import give_memory_back\ngive_memory_back()", "True")],
)
def test_a_megabyte_is_given_back_whatever_was_freed_before(settings: str, apart: str) -> None:
    line = [sys.executable, "-c", SCRIPT.format(settings=settings)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == apart
