"""Where pictures of COCO JSON are found, and where they are not looked for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from training.layouts import NotFound, PictureFinder


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("json", "name", "picture"),
    [
        ("annotations/instances_val2017.json", "1.jpg", "val2017/1.jpg"),
        ("annotations/lvis_v1_train.json", "http://x.org/train2017/1.jpg", "train2017/1.jpg"),
        ("annotations/lvis_v1_val.json", "1.jpg", "val2017/1.jpg"),
        ("annotations/instances_default.json", "1.jpg", "images/default/1.jpg"),
        ("annotations/instances_default.json", "a/1.jpg", "images/a/1.jpg"),
        ("annotations/all.json", "1.jpg", "images/1.jpg"),
        ("annotations/all.json", "1.jpg", "photos/1.jpg"),
        ("annotations/all.json", "1.jpg", "v1.0/1.jpg"),
        ("annotations/all.json", "../pictures/1.jpg", "pictures/1.jpg"),
        ("train/_annotations.coco.json", "1.jpg", "train/1.jpg"),
        ("labels.json", "1.jpg", "data/1.jpg"),
        ("result.json", "images\\1.jpg", "images/1.jpg"),
        ("result.json", "D:\\work\\photos\\1.jpg", "photos/1.jpg"),
        ("result.json", "/home/anna/project/images/1.jpg", "images/1.jpg"),
        ("result.json", "a%20b.jpg", "a b.jpg"),
        ("result.json", "100%25.jpg", "100%25.jpg"),
        ("result.json", "/data/local-files/?d=photos/1.jpg", "photos/1.jpg"),
        ("result.json", "IMG_1.JPG", "img_1.jpg"),
        ("result.json", "caf\u00e9.jpg", "cafe\u0301.jpg"),
    ],
)
def test_layouts_of_data_sets_and_tools(tmp_path: Path, json: str, name: str, picture: str) -> None:
    root = tmp_path / "set"
    wanted = touch(root / picture)
    assert PictureFinder(root / json, None).find({"file_name": name}) == wanted


def test_a_json_in_the_folder_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = touch(tmp_path / "val2017/1.jpg")
    (tmp_path / "annotations").mkdir()
    monkeypatch.chdir(tmp_path / "annotations")
    finder = PictureFinder(Path("instances_val2017.json"), None)
    assert finder.find({"file_name": "a/" * 200_000 + "1.jpg"}) == wanted


def test_lvis_names_the_file_by_its_url(tmp_path: Path) -> None:
    wanted = touch(tmp_path / "train2017/1.jpg")
    finder = PictureFinder(tmp_path / "annotations/lvis_v1_val.json", None)
    assert finder.find({"coco_url": "http://images.cocodataset.org/train2017/1.jpg"}) == wanted


def test_pictures_that_are_missing_cost_no_look_at_every_file(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number}").touch()
    wanted = touch(tmp_path / "part/1.jpg").parent
    (tmp_path / "link").symlink_to(wanted)
    (tmp_path / "round").symlink_to("round")
    touch(tmp_path / ".hidden/x.jpg")
    finder = PictureFinder(tmp_path / "a.json", None)
    before = time.process_time()
    for number in range(200):
        with pytest.raises(NotFound, match="not found"):
            finder.find({"file_name": f"missing/{number}.png"})
    assert time.process_time() - before < 1  # looking at every file again takes over 3 s
    with pytest.raises(NotFound, match="not found"):
        finder.find({"file_name": "x.jpg"})


def test_a_folder_that_is_given_is_the_only_one(tmp_path: Path) -> None:
    touch(tmp_path / "1.jpg")
    wanted = touch(tmp_path / "pictures/deep/1.jpg")
    finder = PictureFinder(tmp_path / "a.json", tmp_path / "pictures")
    assert finder.find({"file_name": "1.jpg"}) == wanted
    touch(tmp_path / "pictures/other/1.jpg")
    with pytest.raises(NotFound) as told:
        PictureFinder(tmp_path / "a.json", tmp_path / "pictures").find({"file_name": "1.jpg"})
    assert told.value.reason == "in several folders"


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "/{root}/secret.jpg", "a/../../../secret.jpg", "\0", ".."]
)
def test_nothing_else_is_opened(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "secret.jpg")
    (tmp_path / "set/part").mkdir(parents=True)
    finder = PictureFinder(tmp_path / "set/part/a.json", None)
    with pytest.raises(NotFound):
        finder.find({"file_name": name.format(root=tmp_path)})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("../../../etc/passwd", "outside of the folders that are looked in"),
        ("/etc/passwd", "outside of the folders that are looked in"),
        ("../1.jpg", ""),
        ("http://x.org/train2017/1.jpg", ""),
        ("a/../1.jpg", ""),
    ],
)
def test_a_path_out_of_the_folders_is_told(tmp_path: Path, name: str, found: str) -> None:
    finder = PictureFinder(tmp_path / "set/part/a.json", None)
    with pytest.raises(NotFound) as told:
        finder.find({"file_name": name})
    assert (told.value.reason, told.value.found) == ("not found", found)
