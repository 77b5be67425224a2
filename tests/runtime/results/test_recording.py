"""A recording that goes on for ever in little space."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.frames.sources import Frame
from runtime.results.doubts import Doubt
from runtime.results.recording import Recording
from runtime.results.result import FrameResult
from runtime.results.sinks import Sink
from stages.errors import InputError
from stages.files import writing


class Heavy(Sink):
    """Writes a kilobyte a frame."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "frames"
        self.closed = False

    def write(self, result: FrameResult) -> None:
        with self.path.open("ab") as file:
            file.write(bytes([result.frame.number % 256]) * 1000)

    def close(self) -> None:
        self.closed = True


def result(number: int) -> FrameResult:
    return FrameResult(Frame(number, str(number), 0.0, np.zeros((4, 4, 3), np.uint8)), ())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("frames"))


def test_the_oldest_parts_go_and_the_newest_frames_stay(tmp_path: Path) -> None:
    made: list[Heavy] = []

    def make(folder: Path) -> list[Sink]:
        made.append(Heavy(folder))
        return [made[-1]]

    recording = Recording(tmp_path / "record", 20_000, make, check_every=1)
    largest = 0
    for number in range(200):
        recording.write(result(number))
        largest = max(largest, size(tmp_path))
    recording.close()
    assert largest <= 21_000
    assert size(tmp_path) >= 17_000
    assert len(made) > 10
    assert all(sink.closed for sink in made)
    newest = sorted((tmp_path / "record").iterdir())[-2:]
    assert bytes([199]) in b"".join(
        (part / "frames").read_bytes() for part in newest if (part / "frames").exists()
    )


def test_a_new_recording_goes_on_after_the_last_part(tmp_path: Path) -> None:
    for expected in (["part_00000001"], ["part_00000001", "part_00000002"]):
        recording = Recording(tmp_path, 10**9, lambda folder: [Heavy(folder)])
        recording.write(result(0))
        recording.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    """Also those that are as long as a part's name; rotation deletes parts."""
    (tmp_path / "part_holidays").mkdir()
    (tmp_path / "part_aaaaaaaa").mkdir()
    recording = Recording(tmp_path, 4000, lambda folder: [Heavy(folder)], check_every=1)
    for number in range(10):
        recording.write(result(number))
    recording.close()
    assert {"part_holidays", "part_aaaaaaaa"} < {path.name for path in tmp_path.iterdir()}


class Disk:
    """Where Heavy parts lie that together hold `room` bytes."""

    def __init__(self, folder: Path, room: int, error: int = errno.ENOSPC) -> None:
        self.folder, self.room, self.error = folder, room, error

    def make(self, folder: Path) -> list[Sink]:
        return [OnDisk(folder, self)]


class OnDisk(Heavy):
    def __init__(self, folder: Path, disk: Disk) -> None:
        super().__init__(folder)
        self._disk = disk

    def write(self, result: FrameResult) -> None:
        self._check_room()
        super().write(result)

    def doubt(self, doubt: Doubt) -> None:
        self._check_room()
        with self.path.open("ab") as file:
            file.write(doubt.reason.encode())

    def _check_room(self) -> None:
        with writing(self.path):
            if size(self._disk.folder) >= self._disk.room:
                raise OSError(self._disk.error, "no room")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_takes_the_oldest_part_and_the_newest_frame_stays(tmp_path: Path, error: int) -> None:
    recording = Recording(tmp_path, 20_000, Disk(tmp_path, 15_000, error).make, check_every=1)
    for number in range(100):
        recording.write(result(number))
    recording.close()
    frames = b"".join(file.read_bytes()[::1000] for file in sorted(tmp_path.rglob("frames")))
    assert frames == bytes(range(100))[-len(frames) :]
    assert len(frames) >= 10


def test_a_full_disk_takes_the_oldest_part_for_a_doubt_too(tmp_path: Path) -> None:
    recording = Recording(tmp_path, 20_000, Disk(tmp_path, 15_000).make, check_every=1)
    for number in range(15):
        recording.write(result(number))
    oldest, *_ = parts(tmp_path)
    recording.doubt(Doubt("b", [(3, 9)], "it lied"))
    recording.close()
    assert not oldest.exists()
    assert (parts(tmp_path)[-1] / "frames").read_bytes() == b"it lied"


def test_a_disk_that_one_part_fills_ends_the_recording(tmp_path: Path) -> None:
    recording = Recording(tmp_path, 10**9, Disk(tmp_path, 3000).make)
    for number in range(3):
        recording.write(result(number))
    with pytest.raises(InputError, match="no room"):
        recording.write(result(3))
    recording.close()
    assert len(parts(tmp_path)) == 1


def test_another_error_than_a_full_disk_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "part_00000001").mkdir()
    recording = Recording(tmp_path, 10**9, Disk(tmp_path, 3000, errno.EROFS).make)
    for number in range(3):
        recording.write(result(number))
    with pytest.raises(InputError, match="no room"):
        recording.write(result(3))
    assert len(parts(tmp_path)) == 2


def test_a_disk_that_others_fill_ends_the_recording(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 50_000)
    recording = Recording(tmp_path, 10_000, disk.make, check_every=1)
    for number in range(10):
        recording.write(result(number))
    disk.room = 0
    with pytest.raises(InputError, match="no room"):
        recording.write(result(10))
    recording.close()


def test_a_limit_below_one_frame_keeps_the_newest(tmp_path: Path) -> None:
    recording = Recording(tmp_path, 10, lambda folder: [Heavy(folder)], check_every=1)
    for number in range(10):
        recording.write(result(number))
    recording.close()
    assert size(tmp_path) <= 2000
    assert parts(tmp_path)[-1].joinpath("frames").read_bytes() == bytes([9]) * 1000


def test_a_part_that_cannot_be_begun_takes_the_place_of_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder, refusals = Path.mkdir, iter([False, False, True, True, False, False])

    def refuse(self: Path, *args: Any, **options: Any) -> None:
        if next(refusals):
            raise OSError(errno.ENOSPC, "No space left on device")
        make_folder(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    recording = Recording(tmp_path, 10_000, lambda folder: [Heavy(folder)], check_every=2)
    for number in range(6):
        recording.write(result(number))
    recording.close()
    frames = b"".join(file.read_bytes()[::1000] for file in sorted(tmp_path.rglob("frames")))
    assert frames == bytes([4, 5])


def test_a_part_is_closed_while_the_next_one_is_written(tmp_path: Path) -> None:
    may_close, closed = threading.Event(), list[str]()

    class Slow(Heavy):
        def close(self) -> None:
            assert may_close.wait(30)
            closed.append(self.path.parent.name)

    recording = Recording(tmp_path, 10_000, lambda folder: [Slow(folder)], check_every=1)
    for number in range(3):
        recording.write(result(number))
    assert closed == []
    may_close.set()
    recording.close()
    assert sorted(closed) == ["part_00000001", "part_00000002"]


def test_a_part_that_could_not_be_completed_is_told_later(tmp_path: Path) -> None:
    class Broken(Heavy):
        def close(self) -> None:
            with writing(self.path):
                raise OSError(errno.EIO, "Input/output error")

    recording = Recording(tmp_path, 10, lambda folder: [Broken(folder)], check_every=1)
    recording.write(result(0))
    recording.write(result(1))
    with pytest.raises(InputError, match="Input/output error"):
        recording.write(result(2))


def test_a_part_that_cannot_be_deleted_is_told_once_and_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = shutil.rmtree

    def delete(path: Path) -> None:
        if path.name == "part_00000001":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        really(path)

    monkeypatch.setattr(shutil, "rmtree", delete)
    told: list[str] = []
    make = lambda folder: [Heavy(folder)]  # noqa: E731
    recording = Recording(tmp_path, 5000, make, check_every=1, say=told.append)
    for number in range(30):
        recording.write(result(number))
    recording.close()
    assert told == [
        f"{tmp_path}/part_00000001 cannot be deleted and counts on (Operation not permitted); "
        "delete it yourself"
    ]
    assert size(tmp_path) <= 6000


def test_a_recording_whose_folder_somebody_deletes_begins_again(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "record", 10**9, lambda folder: [Heavy(folder)], check_every=2)
    recording.write(result(0))
    shutil.rmtree(tmp_path / "record")
    (tmp_path / "record/part_00000001").mkdir(parents=True)  # for Heavy, which opens its file again
    recording.write(result(1))
    shutil.rmtree(tmp_path / "record")
    recording._rotate()
    recording.write(result(2))
    recording.close()
    assert size(tmp_path) == 1000


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part_*"))
