"""Disks that are full, and folders that cannot be used."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_to(size_bytes: int) -> Iterator[None]:
    """Files grow no larger while the block runs: EFBIG, as on a full FAT file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


def put_away(folder: Path) -> Callable[[], object]:
    """Put a file in the place of a folder, which is NAME.away then; the result puts it back."""
    away = folder.with_name(f"{folder.name}.away")
    folder.rename(away)
    folder.touch()

    def put_back() -> None:
        folder.unlink()
        away.rename(folder)

    return put_back
