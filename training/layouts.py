"""Where the pictures of a COCO JSON lie: data sets and annotation tools each have their own layout.

Known ones: pictures beside the JSON (Roboflow) or in images/ (Label Studio); annotations/ beside val2017/
(COCO, LVIS) or beside images/SUBSET/ (CVAT); labels.json beside data/ (FiftyOne). Only files in these
folders are ever opened: what a JSON says of other places is not followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from media.folders import folded

_OF_ANNOTATIONS = re.compile(r"ann|label|json|lvis|coco", re.IGNORECASE)  # folders beside which pictures lie
_KEYS = ("file_name", "coco_url", "flickr_url", "path")  # of an image, that may name its file
_MAX_PARTS = 16  # of a path that are looked at

NOT_FOUND, SEVERAL = "not found", "in several folders"  # why a picture is not found, after a number

Parts = tuple[str, ...]


class NotFound(LookupError):
    """A picture is not in any of the places; `reason` follows a number in a sentence."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.found = found


class PictureFinder:
    """Finds the pictures that a COCO JSON names: in `folder`, or else near the JSON."""

    def __init__(self, path: Path, folder: Path | None) -> None:
        self._listings: dict[Path, Mapping[str, str]] = {}
        path = Path(os.path.abspath(path))  # a name alone has no folder above its own
        subset = path.stem.rpartition("_")[2]
        bases = [folder] if folder else [path.parent, path.parent.parent]
        self._bases = [os.path.abspath(base) for base in bases]
        inner = ("", "images", f"images/{subset}", subset, f"{subset}2017", "data")
        self._likely = [base / each for base in bases for each in inner]
        self._wide = bases[:1]
        if not folder and _OF_ANNOTATIONS.search(path.parent.name):
            self._wide = bases
        self.looked = ", ".join(f"{base}/" for base in bases)

    def find(self, image: Mapping[str, Any]) -> Path:
        """The picture of one of the JSON's images. Raises NotFound."""
        names = [image[key] for key in _KEYS if isinstance(image.get(key), str) and image[key]]
        if not names:
            raise NotFound("without a file name")
        for tail in _tails(names):
            for folder in self._likely:
                if path := self._file(folder, tail):
                    return path
        for tail in _tails(names):
            found = [path for folder in self._folders if (path := self._file(folder, tail))]
            if len(found) > 1:
                raise NotFound(SEVERAL, f"{found[0]} and {found[1]}")
            if found:
                return found[0]
        outside = all(self._is_outside(name) for name in names)
        raise NotFound(NOT_FOUND, "outside of the folders that are looked in" if outside else "")

    def _is_outside(self, name: str) -> bool:
        """Whether a path as a JSON has it leads to none of the places where pictures may be."""
        path = _path_of(name)
        absolute = [os.path.normpath(os.path.join(base, path)) for base in self._bases]
        return "://" not in name and not any(
            inner == base or inner.startswith(base.rstrip("/") + "/")
            for inner in absolute
            for base in self._bases
        )

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        """All folders in the places where pictures may be, and in images/ there; hidden ones left out."""
        return tuple(
            path for base in self._wide for place in (base, base / "images") for path in _inner(place)
        )

    def _file(self, folder: Path, parts: Parts) -> Path | None:
        for part in parts:
            listing = self._listing(folder)
            name = listing.get(part) or listing.get(folded(part))
            if name is None:
                return None
            folder = folder / name
        return folder if folder.is_file() else None

    def _listing(self, folder: Path) -> Mapping[str, str]:
        """Names in a folder by themselves, and by what they are without regard to case and composition of
        letters, as Windows and macOS compare them, where that is one name only."""
        if folder not in self._listings:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            alike: dict[str, list[str]] = {}
            for name in names:
                alike.setdefault(folded(name), []).append(name)
            alone = {key: same[0] for key, same in alike.items() if len(same) == 1}
            self._listings[folder] = alone | {name: name for name in names}
        return self._listings[folder]


def _inner(place: Path) -> list[Path]:
    """The folders in a folder, by name; only links are looked up one by one."""
    try:
        with os.scandir(place) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(
        Path(entry.path)
        for entry in shown
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
    )


def _tails(names: Sequence[str]) -> Iterator[Parts]:
    """What may be the path of a file inside a folder, longest first: with its folders, down to its name."""
    for name in names:
        forms = dict.fromkeys((name, name.replace("\\", "/"), _path_of(name), unquote(_path_of(name))))
        all_parts = dict.fromkeys(_parts(form) for form in forms)
        for length in range(max(map(len, all_parts)), 0, -1):
            for parts in all_parts:
                if len(parts) >= length:
                    yield parts[-length:]


def _path_of(name: str) -> str:
    """The path of a URL, or of the file that a URL of Label Studio asks for."""
    name = name.replace("\\", "/")
    if "?d=" in name:
        return name.partition("?d=")[2]
    try:
        return urlsplit(name).path if "://" in name else name
    except ValueError:  # no URL after all
        return name


def _parts(name: str) -> Parts:
    """Folders and name; nothing before the last ".." counts."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    last = max((n for n, part in enumerate(parts) if part == ".."), default=-1)
    return tuple(parts[last + 1 :][-_MAX_PARTS:])
