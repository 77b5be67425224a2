"""The folder that `--out` names, which holds the results of one run.

A hidden file in it, the marker, is locked while a run writes. It lists what that run writes, a JSON string a
line, each before it is written: the next run takes those files away when it has its first result, so that its
results are not mixed with older ones, and nothing else. Whatever a marker says, only files that are named as
results ever go away. All of it blocks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from stages.errors import InputError, PedsamError
from stages.files import check_folder, refuse_file, writing
from stages.locks import lock_file

MARKER = ".pedsam-run"
SUMMARY, MASKS, VIDEO, PICTURES = "summary.json", "masks.jsonl", "overlay.mp4", "overlay"
RECORD = "record"
RESULTS = (SUMMARY, MASKS, VIDEO, f"{PICTURES}/*.jpg")  # of a run; names of all that is ever taken away


@contextlib.contextmanager
def run_folder(
    path: Path, names: Sequence[str], marker: str = MARKER, known: Sequence[str] = RESULTS
) -> Iterator[RunFolder]:
    """The folder at `path`, made where it is missing, for this run alone while the block lasts.

    `names` are names and patterns of files that may be written into it; `RunFolder.note` names each that is.
    `known` are those of what other runs may have written. A PedsamError of the block then says where results
    of an earlier run are there still. Raises InputError when it cannot be written, another run writes into
    it, or a file of one of these names is there that no earlier run wrote.
    """
    check_run_folder(path, names, marker, known)
    with locked_folder(path, marker) as lock:
        folder = RunFolder(path, lock, _listed(path, lock, known))
        try:
            yield folder
        except PedsamError as exc:
            if folder.holds_earlier:
                exc.args = (f"{exc}; {path} still holds the results of an earlier run",)
            raise


def check_run_folder(
    path: Path, names: Sequence[str], marker: str = MARKER, known: Sequence[str] = RESULTS
) -> None:
    """Raise the InputError that `run_folder` would raise, as far as it can be known; makes nothing."""
    refuse_file(path)
    with writing(path):
        check_folder(path)
    earlier: Collection[Path] = ()
    if (path / marker).exists():
        with _locked_marker(path, marker) as lock:
            earlier = _listed(path, lock, known)
    with writing(path):
        for file in (file for name in names for file in path.glob(name)):
            if file not in earlier and file.is_file() and file.stat().st_size:
                raise InputError(
                    f"{file} would be replaced, and no earlier run is known to have written it; move it "
                    "away, or give another --out"
                )


@contextlib.contextmanager
def locked_folder(path: Path, marker: str) -> Iterator[IO[bytes]]:
    """The open marker, while this process alone may write into the folder."""
    refuse_file(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with _locked_marker(path, marker) as lock:
        yield lock


class RunFolder:
    """A folder locked for one run; made by `run_folder`."""

    def __init__(self, path: Path, marker: IO[bytes], earlier: set[Path]) -> None:
        self.path = path
        self.begun = False
        self._marker = marker
        self._earlier = earlier

    @property
    def holds_earlier(self) -> bool:
        """Whether results of an earlier run are there."""
        return any(map(_is_result, self._earlier))

    def begin(self, replaced: Collection[str] = ()) -> bool:
        """Take away the results of an earlier run; returns whether there were any. Files of the names in
        `replaced` stay until new ones take their place."""
        going = self._earlier - {self.path / name for name in replaced}
        found = list(filter(_is_result, going))
        for file in found:
            with writing(file):
                file.unlink()
        for folder in {file.parent for file in found} - {self.path}:
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()
        with writing(self.path):
            self._marker.truncate(0)
        self._earlier = set()
        self.begun = True
        return bool(found)

    def note(self, file: Path) -> None:
        """List a file that is about to be written."""
        line = json.dumps(file.relative_to(self.path).as_posix()) + "\n"
        with writing(file):
            self._marker.write(line.encode())


def _locked_marker(folder: Path, marker: str) -> IO[bytes]:
    with writing(folder):
        try:
            lock = lock_file(folder / marker)
        except BlockingIOError as exc:
            raise InputError(
                f"another run writes into {folder}; wait until it has ended, or give another --out"
            ) from exc
    if not lock.writable():
        lock.close()
        raise InputError(f"the results in {folder} are another user's; give another --out")
    return lock


def results_in(path: Path, names: Sequence[str]) -> set[Path]:
    """Where a run will write files of these names and patterns, and what it will take away before."""
    earlier: set[Path] = set()
    with contextlib.suppress(OSError), (path / MARKER).open("rb") as marker:
        earlier = _listed(path, marker, RESULTS)
    plain = {path / name for name in (*names, MARKER) if "*" not in name}
    with writing(path):
        return earlier | plain | {file for name in names for file in path.glob(name)}


def names_of_results(path: Path) -> set[str]:
    """What runs have written at the top of a folder: names of files and folders, those of recordings too."""
    return {file.relative_to(path).parts[0] for file in results_in(path, ())} | {RECORD}


def _is_result(file: Path) -> bool:
    """Whether it is there, and no link that a person has made."""
    return file.is_file() and not file.is_symlink()


def _listed(folder: Path, marker: IO[bytes], known: Sequence[str]) -> set[Path]:
    """Files of the run that wrote the marker, which are named as its results are."""
    marker.seek(0)
    names = [name for name in map(_name, marker.read().splitlines()) if name is not None]
    return {folder / name for name in names if any(_matches(name, pattern) for pattern in known)}


def _matches(name: str, pattern: str) -> bool:
    """Whether the whole of a path with "/" is as the pattern says, in which "*" is no "/"."""
    path = PurePosixPath(name)
    return len(path.parts) == len(PurePosixPath(pattern).parts) and path.match(pattern)


def _name(line: bytes) -> str | None:
    """A path below the folder as a line of the marker names it; None for anything else."""
    try:
        name = json.loads(line)
    except ValueError:
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    path = PurePath(name)
    return None if path.is_absolute() or ".." in path.parts else name
