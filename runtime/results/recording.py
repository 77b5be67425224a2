"""A recording of bounded size: parts, of which the oldest are deleted."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from runtime.results.doubts import Doubt
from runtime.results.result import FrameResult
from runtime.results.sinks import Sink, close_all
from stages.errors import InputError, PedsamError
from stages.files import writing

_PARTS = 10  # about so many share the space
_CHECK_EVERY = 25  # frames between two checks of the size
_FULL = (errno.ENOSPC, errno.EDQUOT)

MakeSinks = Callable[[Path], Sequence[Sink]]  # sinks that write into a folder, which exists


class Recording(Sink):
    """`part_00000001/`, `part_00000002/` and so on under a folder, together at most about `limit_bytes`.

    Numbers go on where an earlier recording in the same folder ended. A disk that is full sooner takes the
    place of the limit: the oldest part is deleted and a new one begun. `say` gets a sentence about parts that
    cannot be deleted; others are deleted then.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        make: MakeSinks,
        check_every: int = _CHECK_EVERY,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._make = make
        self._check_every = check_every
        self._say = say
        self._sinks: Sequence[Sink] = ()
        self._frames = 0
        self._undeletable: set[Path] = set()
        self._closer = ThreadPoolExecutor(1, "recording")
        self._ended: Future[None] | None = None
        self._next_part()

    def write(self, result: FrameResult) -> None:
        def rotate_and_write() -> None:
            if self._frames and self._frames % self._check_every == 0:
                self._rotate()
            self._write(result)

        self._make_room_for(rotate_and_write, partial(self._write, result))
        self._frames += 1

    def doubt(self, doubt: Doubt) -> None:
        def write() -> None:
            for sink in self._sinks:
                sink.doubt(doubt)

        self._make_room_for(write, write)

    def close(self) -> None:
        try:
            close_all(self._sinks)
        finally:
            self._wait_for_ended()
            self._closer.shutdown()

    def _write(self, result: FrameResult) -> None:
        for sink in self._sinks:
            sink.write(result)

    def _make_room_for(self, write: Callable[[], None], again: Callable[[], None]) -> None:
        """Call `write`, and `again` in a new part where the disk is full."""
        try:
            write()
        except InputError as exc:
            if not _is_full(exc):
                raise
            self._write_in_place_of_older(again, exc)

    def _write_in_place_of_older(self, write: Callable[[], None], error: InputError) -> None:
        """Delete the oldest parts, one by one, until there is room for what `write` writes in a new one.
        Raises an InputError when there is none then."""
        for part in self._parts():
            if part != self._part and self._delete(part):
                self._end_part()
                try:
                    self._next_part()
                    write()
                except InputError as exc:
                    if not _is_full(exc):
                        raise
                else:
                    return
        raise error

    def _rotate(self) -> None:
        parts = self._parts()
        sizes = {part: _size_bytes(part) for part in parts}
        total = sum(sizes.values())
        for part in parts[:-1]:
            if total > self._limit_bytes and self._delete(part):
                total -= sizes[part]
        # one that is not there was deleted by somebody else
        if sizes.get(self._part, self._limit_bytes) > self._limit_bytes / _PARTS:
            self._end_part()
            self._next_part()

    def _delete(self, part: Path) -> bool:
        """Whether it could be deleted."""
        if part in self._undeletable:
            return False
        try:
            shutil.rmtree(part)
        except OSError as exc:
            self._undeletable.add(part)
            self._say(f"{part} cannot be deleted and counts on ({exc.strerror}); delete it yourself")
            return False
        return True

    def _end_part(self) -> None:
        """Close its files, in a thread of its own: that waits for the disk."""
        self._wait_for_ended()
        self._ended = self._closer.submit(close_all, self._sinks)
        self._sinks = ()

    def _wait_for_ended(self) -> None:
        """On a full disk an index may be missing, without which a part can be played too."""
        ended, self._ended = self._ended, None
        try:
            if ended is not None:
                ended.result()
        except PedsamError as exc:
            if not _is_full(exc):
                raise

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("part_" + 8 * "[0-9]") if path.is_dir())

    def _next_part(self) -> None:
        parts = self._parts()
        number = int(parts[-1].name.removeprefix("part_")) + 1 if parts else 1
        self._part = self._folder / f"part_{number:08}"
        with writing(self._part):
            self._part.mkdir(parents=True)
        self._sinks = self._make(self._part)


def _is_full(error: PedsamError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


def _size_bytes(part: Path) -> int:
    """Of all files in it that are there by now; others may take some away meanwhile."""
    total = 0
    for file in part.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
