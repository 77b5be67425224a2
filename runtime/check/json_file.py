"""The file of `--json`: what `pedsam check` or `pedsam plan` found, for programs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stages.distinct import NamedFile, check_distinct
from stages.files import check_writable, writing


def check_json_file(path: Path | None, others: Iterable[NamedFile]) -> None:
    """Raise InputError where the file cannot be written, or is one of `others`, which stay as they are."""
    if path is not None:
        check_distinct([NamedFile("--json", path)], others)
        with writing(path):
            check_writable(path)


def write_json_file(path: Path | None, text: str) -> None:
    """Write JSON, if it has a place. Raises InputError."""
    if path is not None:
        with writing(path):
            path.write_text(text + "\n", encoding="utf-8")
