"""Locks on files."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from stages.locks import check_lockable, lock_file


def test_a_lock_lasts_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock_file(path)
    for trial in (lock_file, check_lockable):
        with pytest.raises(BlockingIOError):
            trial(path)
    held.close()
    check_lockable(path)
    lock_file(path).close()


def test_what_can_only_be_read_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file of another user; root could write all."""
    path, opened = tmp_path / "lock", Path.open
    path.write_bytes(b"of another user")

    def refuse(self: Path, mode: str, **options: Any) -> Any:
        if "a" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with lock_file(path), pytest.raises(BlockingIOError):
        lock_file(path)


def test_a_file_system_without_locks_is_an_error_only_where_one_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_file(tmp_path / "lock") as file:
        file.write(b"x")
    with pytest.raises(OSError, match="No locks available"):
        lock_file(tmp_path / "lock", required=True)
