"""Files that grow and last through a crash."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from stages import durable
from stages.durable import DurableFile
from tests.support.disks import limited_to


def test_a_durable_file_holds_what_was_written_before_it_is_closed(tmp_path: Path) -> None:
    file = DurableFile(tmp_path / "file")
    assert file.write(b"one two") == 7
    assert (file.seek(4), file.tell()) == (4, 4)
    file.write(b"TWO")
    file.keep()
    assert (tmp_path / "file").read_bytes() == b"one TWO"
    file.close()


def test_a_write_that_fails_takes_back_what_was_not_whole_and_is_told_once(tmp_path: Path) -> None:
    file = DurableFile(tmp_path / "file")
    file.write(b"whole")
    file.keep()
    file.write(b"ha")
    with limited_to(8), pytest.raises(OSError, match="too large"):
        file.write(b"lf a line")
    with pytest.raises(OSError, match="too large"):
        file.write(b"more, with room again")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_the_disk_is_told_to_keep_it_while_writing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Semaphore(0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.release())
    monkeypatch.setattr(durable, "SYNC_EVERY_S", 0.0)
    file = DurableFile(tmp_path / "file")
    file.keep()
    assert synced.acquire(timeout=30)
    file.close()
    assert synced.acquire(timeout=30)


def test_a_disk_that_cannot_keep_it_is_told_at_the_latest_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fail)
    file = DurableFile(tmp_path / "file")
    file.write(b"data")
    with pytest.raises(OSError, match="quota"):
        file.close()


def test_a_device_needs_no_sync(tmp_path: Path) -> None:
    file = DurableFile(Path("/dev/null"))
    file.write(b"data")
    file.close()
