"""A recording that goes on for ever in little space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.recording import Recording
from runtime.sinks import Result, Sink
from runtime.sources import Frame


class Heavy(Sink):
    """Writes a kilobyte a frame."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "frames"
        self.closed = False

    def write(self, result: Result) -> None:
        with self.path.open("ab") as file:
            file.write(bytes([result.frame.number % 256]) * 1000)

    def close(self) -> None:
        self.closed = True


def result(number: int) -> Result:
    return Result(Frame(number, str(number), 0.0, np.zeros((4, 4, 3), np.uint8)), ())


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
