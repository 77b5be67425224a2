"""A file that grows little by little and lasts through a crash."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

SYNC_EVERY_S = 4.0  # a power cut takes what was written since
_NEVER_SYNCED = (errno.EINVAL, errno.EROFS, errno.ENOTSUP)  # pipes and devices


class DurableFile:
    """A file written from its start that lasts through a crash, and through a power cut but for its last
    seconds.

    Every write reaches the system at once, and a thread has the disk keep it every SYNC_EVERY_S. A write that
    fails cuts off what was written since `keep`, and nothing more is written then: all that follows raises
    the same OSError.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._position = self._kept_bytes = 0
        self._error: OSError | None = None
        self._raised = False
        self._syncing: threading.Thread | None = None
        self._synced_s = time.monotonic()

    def write(self, data: bytes) -> int:
        """All of `data` at the position; returns its length."""
        self._raise_error()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as exc:
            self._error, self._raised = exc, True
            with suppress(OSError):  # pipes and devices have no length
                os.ftruncate(self._descriptor, self._kept_bytes)
            raise
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; returns it in bytes from the start."""
        self._raise_error()
        self._position = os.lseek(self._descriptor, offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def keep(self) -> None:
        """What was written so far is whole: a later failure does not take it away."""
        self._kept_bytes = self._position
        idle = self._syncing is None or not self._syncing.is_alive()
        if idle and time.monotonic() - self._synced_s > SYNC_EVERY_S:
            self._synced_s = time.monotonic()
            self._syncing = threading.Thread(target=self._sync, name="sync", daemon=True)
            self._syncing.start()

    def close(self) -> None:
        """Raises OSError for what could not be written, unless a write has raised it."""
        if self._syncing is not None:
            self._syncing.join()
        if self._error is None:
            self._sync()
        os.close(self._descriptor)
        if not self._raised:
            self._raise_error()

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as exc:
            if exc.errno not in _NEVER_SYNCED:
                self._error = exc

    def _raise_error(self) -> None:
        if self._error is not None:
            self._raised = True
            raise self._error
