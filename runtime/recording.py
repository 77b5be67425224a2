"""Recording without an end in space that has one: parts, of which the oldest go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.sinks import Result, Sink, writing

_PARTS = 10  # the space is shared among about so many
_CHECK_EVERY = 25  # frames between two looks at the size

MakeSinks = Callable[[Path], Sequence[Sink]]  # sinks that write into a folder, which exists


class Recording(Sink):
    """`part_00000001/`, `part_00000002/` and so on under a folder, together at most about `limit_bytes`.

    Numbers go on where an earlier recording in the same folder ended.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, make: MakeSinks, check_every: int = _CHECK_EVERY
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._make = make
        self._check_every = check_every
        self._sinks: Sequence[Sink] = ()
        self._frames = 0
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._next_part()

    def write(self, result: Result) -> None:
        for sink in self._sinks:
            sink.write(result)
        self._frames += 1
        if self._frames % self._check_every == 0:
            self._rotate()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def _rotate(self) -> None:
        parts = self._parts()
        sizes = {
            part: sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) for part in parts
        }
        total = sum(sizes.values())
        for part in parts[:-1]:
            if total > self._limit_bytes:
                total -= sizes[part]
                with writing(part):
                    shutil.rmtree(part)
        if sizes[parts[-1]] > self._limit_bytes / _PARTS:
            self.close()
            self._next_part()

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("part_????????") if path.is_dir())

    def _next_part(self) -> None:
        parts = self._parts()
        number = int(parts[-1].name.removeprefix("part_")) + 1 if parts else 1
        part = self._folder / f"part_{number:08}"
        with writing(part):
            part.mkdir()
        self._sinks = self._make(part)
