"""Locks on files, which end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from stages.files import check_replaceable


def lock_file(path: Path, *, required: bool = False) -> IO[bytes]:
    """`path`, made where it is missing, open to read and append, and locked until it is closed.

    One that another user owns may be open to read only: that is enough to lock it. Blocks for no longer than
    the disk. Raises BlockingIOError while another process holds the lock, and OSError for a file that cannot
    be opened. On a file system without locks the file is just open, or with `required` that is an OSError.
    """
    try:
        file: IO[bytes] = path.open("ab+", buffering=0)
    except PermissionError:
        file = path.open("rb", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:  # on some network file systems: a run there is better than none
        if required or isinstance(exc, BlockingIOError):
            file.close()
            raise
    return file


def check_lockable(path: Path) -> None:
    """Raise what `lock_file` with `required` would raise, as far as it can be known; makes no file."""
    if path.exists():
        lock_file(path, required=True).close()
    else:
        check_replaceable(path)
