"""Pictures to check a lower precision with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.checks.pictures import MAX_PICTURES, check_pictures, made_picture, photographs
from media.pictures import read_picture
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from tests.support.training import write_pair

MINI = GEOMETRIES["mini"]


def test_without_a_folder_one_is_made() -> None:
    (made,) = check_pictures(MINI, None)
    assert made.shape == (288, 384, 3)
    assert (made.min(), made.max()) == (0, 255)
    assert (made_picture(MINI) == made).all()


def test_the_first_of_a_folder_come_as_they_lie_on_the_canvas(tmp_path: Path) -> None:
    shade = Image.fromarray(np.zeros((60, 40, 3), np.uint8))
    for number in range(MAX_PICTURES + 1):
        shade.save(tmp_path / f"{number}.png")
    found = check_pictures(MINI, tmp_path)
    assert [picture.shape for picture in found] == [(384, 256, 3)] * MAX_PICTURES


def test_label_maps_are_no_pictures(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "inner").mkdir()
    write_pair(tmp_path / "inner", "b")
    (tmp_path / "inner/b.jpg").rename(tmp_path / "inner/b.JPEG")
    for name in ("c.jpg", "c.jpg.png", "d.png"):
        shutil.copy(tmp_path / "a.jpg", tmp_path / name)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "E.JPG")
    shutil.copy(tmp_path / "a.png", tmp_path / "e.png")
    shutil.copy(tmp_path / "a.jpg", tmp_path / "f.jpg")
    shutil.copy(tmp_path / "a.png", tmp_path / "F.PNG")
    pictures = [tmp_path / name for name in ("E.JPG", "a.jpg", "c.jpg", "d.png", "f.jpg")]
    assert sorted(photographs(tmp_path)) == [*pictures, tmp_path / "inner/b.JPEG"]


def test_a_folder_without_pictures_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures: expected a folder of"):
        check_pictures(MINI, tmp_path)
    (tmp_path / "a.jpg").write_text("words")
    with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
        read_picture(tmp_path / "a.jpg")
