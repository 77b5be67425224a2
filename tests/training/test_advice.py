"""What is said of a path without pictures with masks: what lies there instead, and what to give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.errors import InputError
from training.data import read_samples
from training.tally import Tally

COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
    "annotations": [{"id": 1, "image_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15]]}],
}
LABELME: dict[str, Any] = {"shapes": [], "imagePath": "a.jpg", "imageData": None}


def put(path: Path, content: Any = COCO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def sentence(path: Path) -> str:
    with pytest.raises(InputError) as told:
        read_samples(path, None, Tally())
    return str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "_annotations.coco.json",
        "valid/_annotations.coco.json",
        "annotations/instances_val2017.json",
        "labels.json",
        "result.json",
    ],
)
def test_the_coco_json_of_a_folder_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    put(tmp_path / "annotations/captions.txt", "words")
    assert sentence(tmp_path).endswith(f"or a COCO JSON; there is {tmp_path / name}, give that")


def test_of_several_jsons_those_of_instances_come_first(tmp_path: Path) -> None:
    for name in ("captions_val2017", "instances_val2017", "person_keypoints_val2017"):
        put(tmp_path / f"annotations/{name}.json")
    put(tmp_path / "labelme.json", LABELME)
    assert f"give one of them: {tmp_path}/annotations/instances_val2017.json, " in sentence(tmp_path)
    assert "labelme" not in sentence(tmp_path)


def test_jsons_of_labelme_are_not_taken_for_coco(tmp_path: Path) -> None:
    put(tmp_path / "a.json", LABELME)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    assert f"{tmp_path}/a.json cannot be used: it is labelme's JSON of one picture: convert" in sentence(
        tmp_path
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels/a.txt", "0 0.1 0.1 0.5 0.5\n"),
        ("labels/val/a.txt", "12 0.1 0.1 0.5 0.1 0.5 5e-1"),
        ("valid/labels/a.txt", "0 0 0 1 1"),
        ("a.txt", "0 .1 .1 .5 .5\n1 .1 .1 .5 .5"),
        ("data.yaml", "names: [x]"),
    ],
)
def test_yolo_is_named(tmp_path: Path, name: str, content: str) -> None:
    put(tmp_path / name, content)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images/a.jpg")
    said = f"{tmp_path / name} is as YOLO has it, which is not read: export the annotations as COCO JSON"
    assert sentence(tmp_path).endswith(said)


def test_other_texts_are_not_yolo(tmp_path: Path) -> None:
    put(tmp_path / "README.txt", "5 photographs, of 2019")
    assert sentence(tmp_path).endswith("or a COCO JSON")


@pytest.mark.parametrize("name", ["annotations.xml", "Annotations/a.xml"])
def test_xml_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "<annotations/>")
    assert f"{tmp_path / name} is XML as CVAT and PASCAL VOC have it" in sentence(tmp_path)


def test_a_file_of_yolo_is_named(tmp_path: Path) -> None:
    put(tmp_path / "data.yaml", "names: [x]")
    assert sentence(tmp_path / "data.yaml").endswith("export the annotations as COCO JSON")


def test_images_is_named_only_where_pictures_are_not_found(tmp_path: Path) -> None:
    put(tmp_path / "a.json")
    assert sentence(tmp_path / "a.json").endswith("--images FOLDER says where the pictures are")
    Image.new("RGB", (50, 50)).save(tmp_path / "a.jpg")
    assert sentence(tmp_path / "a.json").endswith(": correct the JSON, or export it again")
    put(tmp_path / "a.json", COCO | {"images": [{"file_name": "a.jpg"}]})
    assert sentence(tmp_path / "a.json").endswith(": correct the JSON, or export it again")
