"""Folders of pictures: which files are found, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from media.folders import find_pictures
from stages.errors import InputError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg", "10.jpg"],
        ["frame-9.png", "frame-10.png", "frame-100.png"],
        ["a.png", "a1.png", "a2b9.png", "a2b10.png", "b.png"],
        ["01.png", "1.png", "2.png", "010.png"],
        ["IMG_2.JPG", "img_3.jpg", "IMG_10.Jpg"],
        ["0.tif", "00000000000000000000000000000001.tif", "99999999999999999999999999999999.tif"],
    ],
)
def test_numbers_in_names_are_numbers(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *reversed(names))
    assert [path.name for path in find_pictures(tmp_path).paths] == names


def test_what_is_no_picture_is_left_out_by_name_and_reason(tmp_path: Path) -> None:
    metadata = [
        "._a.jpg",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "@eaDir/a.jpg",
        "__MACOSX/._a.jpg",
        ".b.jpg",
    ]
    touch(tmp_path, "a.jpg", "c.TIFF", "notes.txt", "d.heic", "inner/e.png", *metadata)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "absent")
    found = find_pictures(tmp_path)
    assert [path.name for path in found.paths] == ["a.jpg", "c.TIFF"]
    assert {reason: set(names) for reason, names in found.left_out.items()} == {
        "hidden files and what file managers keep": {name.partition("/")[0] for name in metadata},
        "not named as a picture is": {"notes.txt", "d.heic"},
        "folders": {"inner"},
        "not regular files": {"pipe.jpg"},
        "cannot be read (No such file or directory)": {"link.jpg"},
    }
    assert "left out, not named as a picture is: d.heic, notes.txt" in list(found.told())
    inner = find_pictures(tmp_path, inner=True)
    assert [str(path.relative_to(tmp_path)) for path in inner.paths] == ["a.jpg", "c.TIFF", "inner/e.png"]
    assert "folders" not in inner.left_out


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*absent cannot be read \(No such file"):
        find_pictures(tmp_path / "absent")


def test_what_is_in_every_folder_is_not_told(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "._a.jpg", "desktop.ini", "a.jpg", "notes.txt", "masks.jsonl"):
        (tmp_path / name).touch()
    found = find_pictures(tmp_path)
    assert [path.name for path in found.paths] == ["a.jpg"]
    assert list(found.told(["masks.jsonl"])) == ["left out, not named as a picture is: notes.txt"]
