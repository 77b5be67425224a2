"""That no file of a command is two things at once: one that is read and written, or written twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from stages.errors import InputError, printable

_Key: TypeAlias = "tuple[int, int] | str | None"


@dataclass(frozen=True)
class NamedFile:
    """A file and what it is to a command: "--trace", "the source"."""

    what: str
    path: Path


def check_distinct(
    written: Iterable[NamedFile], read: Iterable[NamedFile], folders: Iterable[NamedFile] = ()
) -> None:
    """Raise InputError where a file that is `written` or removed is another one, or one that is `read`.

    `folders` are written into as they please, so that nothing that is read may lie in them. Links are
    followed. Devices and pipes may be many things at once.
    """
    written = list(written)
    places: dict[_Key, NamedFile] = {_key(file.path): file for file in reversed(written)}
    places.pop(None, None)
    inside = {os.path.realpath(folder.path): folder for folder in folders}
    for file in read:
        if (by := _holding(inside, file.path) or places.get(_key(file.path))) is not None:
            raise InputError(
                f"{by.what} would overwrite or remove {_shown(file.path)}, which is {file.what}; give one of "
                "them another place"
            )
    for file in written:
        other = places.get(_key(file.path), file)
        if other.what != file.what:
            raise InputError(
                f"{other.what} and {file.what} are one file, {_shown(file.path)}; give each its own"
            )


def _key(path: Path) -> _Key:
    """Device and inode of a file that is there, None for what else is there, else the real path."""
    try:
        now = path.stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (now.st_dev, now.st_ino) if stat.S_ISREG(now.st_mode) else None


def _holding(folders: Mapping[str, NamedFile], file: Path) -> NamedFile | None:
    """The folder in which a file lies."""
    if not folders:
        return None
    parents = map(str, Path(os.path.realpath(file)).parents)
    return next((folders[each] for each in parents if each in folders), None)


def _shown(path: Path) -> str:
    return printable(str(path))
