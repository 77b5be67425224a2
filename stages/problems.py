"""Sentences about errors of libraries and of the system, where nobody said it better."""

from __future__ import annotations

import errno
import os

from stages.machine import memory_ran_out, own_ceilings

# The extra of pyproject.toml that installs what a command needs.
EXTRAS = {
    "export": "export",
    "train": "train",
    "distill": "train",
    "build": "build",
    "serve": "site",
    "evaluate": "edge,train",
    "demo": "demo",
}
# Of a file that is open already, which the error does not name.
_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)


# Python's and the loader's words for it: a thread's stack and a library's segments are memory too.
_NO_MEMORY = ("can't start new thread", "failed to map segment", "cannot allocate memory", "bad_alloc")


def memory_problem(exc: Exception) -> str | None:
    """A sentence about memory that ran out."""
    if isinstance(exc, MemoryError) or any(words in str(exc).lower() for words in _NO_MEMORY):
        return memory_ran_out(own_ceilings())
    return None


def library_problem(name: str, exc: Exception) -> str | None:
    """A sentence about a library that is missing or cannot be loaded, and the command that installs it."""
    install = f'pip install "pedsam[{EXTRAS.get(name, "edge")}]"'
    text = " ".join(str(exc).split())
    if isinstance(exc, ModuleNotFoundError):
        return f"pedsam {name} needs the package {exc.name}, which is not here: {install}"
    if "libGL" in text or "libgthread" in text:  # of opencv-python, which brings a window system along
        return f"OpenCV cannot be loaded ({text:.200}): pip uninstall opencv-python, then {install}"
    if isinstance(exc, ImportError) or "shared object" in text or "binary incompatibility" in text:
        return f"pedsam {name} has a library that cannot be loaded ({text:.300}): {install} --force-reinstall"
    return None


def system_problem(exc: Exception) -> str | None:
    """A sentence about what the system refused, where nobody said it better."""
    if not isinstance(exc, OSError) or not exc.strerror:
        return None
    if exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    return f"the system gives no more: {exc.strerror}" if exc.errno in _USED_UP else None


def no_more_files(exc: BaseException) -> str | None:
    """What the system said, and what to do, where this process has as many files and sockets as it may."""
    number = exc.errno if isinstance(exc, OSError) else None
    if number not in (errno.EMFILE, errno.ENFILE):
        return None
    return f"({os.strerror(number)}); give it more with `ulimit -n`, or LimitNOFILE= of its service"
