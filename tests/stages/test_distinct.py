"""Files that are two things at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.distinct import NamedFile, check_distinct
from stages.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> NamedFile:
    (tmp_path / "a.jpg").write_text("a picture")
    return NamedFile("the source", tmp_path / "a.jpg")


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_what_is_read_is_not_written(tmp_path: Path, source: NamedFile, link: object) -> None:
    written = tmp_path / ("other" if link else "sub/../a.jpg")
    (tmp_path / "sub").mkdir()
    if callable(link):
        link(source.path, written)
    with pytest.raises(
        InputError, match=r"^--trace would overwrite or remove .*a\.jpg, which is the source; "
    ):
        check_distinct([NamedFile("--trace", written)], [source])


def test_two_files_are_not_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    both = [NamedFile("--trace", tmp_path / "x"), NamedFile("--heartbeat", tmp_path / "link/x")]
    with pytest.raises(InputError, match=r"^--trace and --heartbeat are one file, .*/link/x; give each its"):
        check_distinct(both, [])


@pytest.mark.parametrize("inside", ["a.jpg", "sub/a.jpg"])
def test_nothing_that_is_read_lies_in_a_folder_that_is_written(tmp_path: Path, inside: str) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out" / inside).touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "out" / inside)
    for path in (tmp_path / "out" / inside, tmp_path / "link.jpg"):
        with pytest.raises(InputError, match=r"^--out would overwrite or remove"):
            check_distinct([], [NamedFile("the source", path)], [NamedFile("--out", tmp_path / "out")])


def test_files_of_their_own_and_devices_are_fine(tmp_path: Path, source: NamedFile) -> None:
    null = Path("/dev/null")
    written = [NamedFile("--trace", null), NamedFile("--heartbeat", null), NamedFile("--out", tmp_path / "b")]
    check_distinct(written, [source, NamedFile("--config", null)], [NamedFile("--out", tmp_path / "out")])
    check_distinct([source, source], [])
