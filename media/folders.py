"""Folders of pictures: which files are taken, in which order, and why the others are left out."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media.pictures import SUFFIXES
from stages.errors import InputError, printable
from stages.words import some_of

_METADATA = "hidden files and what file managers keep"


@dataclass(frozen=True)
class FoundPictures:
    """The pictures of a folder, and the names of what else is in it by the reason why it is left out."""

    paths: tuple[Path, ...]
    left_out: Mapping[str, tuple[str, ...]]

    def told(self, expected: Collection[str] = ()) -> Iterator[str]:
        """A sentence for each reason, but none about hidden files and the like, nor about names that are
        `expected` there."""
        for reason, names in self.left_out.items():
            if reason != _METADATA and (told := [name for name in names if name not in expected]):
                yield f"left out, {reason}: {some_of(told)}"


def find_pictures(folder: Path, inner: bool = False) -> FoundPictures:
    """The pictures in a folder, and with `inner` in its folders, in natural order: 2 comes before 10.

    Raises InputError for a folder that cannot be read.
    """
    paths: list[Path] = []
    left_out: dict[str, list[str]] = {}
    for path in _entries(folder, inner):
        if reason := _not_taken(path, inner):
            left_out.setdefault(reason, []).append(str(path.relative_to(folder)))
        elif not os.path.isdir(path):  # is_dir() raises for what may not be looked at
            paths.append(path)
    paths.sort(key=lambda path: natural_key(path.relative_to(folder)))
    return FoundPictures(tuple(paths), {reason: tuple(names) for reason, names in left_out.items()})


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sorts paths with numbers in their names by these numbers, and by letters whatever their case."""
    names = (*path.parent.parts, path.stem, path.suffix)
    return tuple(tuple(_parts(name)) for name in names), str(path)


def folded(name: str) -> str:
    """A name as Windows and macOS compare it: without regard to case and to how letters are composed."""
    return unicodedata.normalize("NFC", name).casefold()


def _parts(name: str) -> Iterator[str | int]:
    for number, part in enumerate(re.split("([0-9]+)", name.casefold())):
        yield int(part) if number % 2 else part


def _entries(folder: Path, inner: bool) -> Iterator[Path]:
    """What is in a folder, and with `inner` in its folders, hidden ones left out, by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        raise InputError(f"folder {printable(folder)} cannot be read ({exc.strerror})") from exc
    for path in entries:
        yield path
        if inner and not _is_metadata(path.name) and not path.is_symlink() and os.path.isdir(path):
            yield from _entries(path, inner)


def _not_taken(path: Path, inner: bool) -> str | None:
    """Why what is at this path is left out; None for a picture and for a folder that is looked into."""
    if _is_metadata(path.name):
        return _METADATA
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"
    if stat.S_ISDIR(mode):
        return None if inner and not path.is_symlink() else "folders"
    if path.suffix.lower() not in SUFFIXES:
        return "not named as a picture is"
    return None if stat.S_ISREG(mode) else "not regular files"


def _is_metadata(name: str) -> bool:
    """Whether this is a hidden file, or one in which a file manager keeps what it knows of others."""
    return name.startswith((".", "@", "__MACOSX")) or name.lower() in (
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    )
