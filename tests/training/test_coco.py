"""COCO JSON: what is left out is counted by reason and told by name, and what a JSON is that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.errors import InputError
from tests.support.training import masks_of
from training.coco import CocoReader, check_fits
from training.data import read_samples
from training.samples import Sample
from training.tally import Tally

WIDTH, HEIGHT = 40, 30
SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]


def write(folder: Path, *annotations: Any, name: str = "a.jpg", **of_image: Any) -> Path:
    """A JSON of one picture of 40 x 30 pixels; annotations without ids get 1, 2, ..."""
    Image.new("RGB", (WIDTH, HEIGHT), "olive").save(folder / "a.jpg")
    image = {"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT} | of_image
    listed = [
        {"id": number, "image_id": 1, "iscrowd": 0} | each if isinstance(each, dict) else each
        for number, each in enumerate(annotations, 1)
    ]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": [image], "annotations": listed}))
    return path


def read(path: Path) -> tuple[list[Sample], Tally]:
    tally = Tally()
    return read_samples(path, None, tally), tally


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"segmentation": SQUARE},
        {"bbox": [1, 1, 9, 9], "segmentation": []},
        {"bbox": [1, 1, 9, 9]},
        {},
        {"segmentation": SQUARE, "iscrowd": 1},
        {"segmentation": SQUARE, "image_id": 99},
        {"segmentation": [[5, 5, float("nan"), 5, 15, 15]]},
        {"segmentation": SQUARE, "id": 1},
        {"segmentation": [[1, 1, 9, 1, 9, 9]], "id": 1},
        "annotation",
    )
    (sample,), tally = read(path)
    assert masks_of(sample).shape == (2, HEIGHT, WIDTH)  # the same id for another mask does no harm
    assert tally.left_out() == {
        "annotations": {
            "with a box and no mask": 2,
            "without a mask": 1,
            "of crowds": 1,
            "of an image that is not listed": 1,
            "with a coordinate that is not finite": 1,
            "that are there twice": 1,
            "that are no objects": 1,
        }
    }
    (sentence,) = tally.sentences()
    assert sentence.startswith(
        "of 10 annotations 8 are left out: "
        "2 with a box and no mask (annotation 2 of a.jpg, annotation 3 of a.jpg), "
    )
    assert "1 with a coordinate that is not finite (annotation 7 of a.jpg: nan)" in sentence
    assert "1 of an image that is not listed (annotation 6: image_id 99)" in sentence


def test_ids_as_text_and_the_mark_of_windows_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"segmentation": SQUARE, "image_id": "1", "id": "x"}, width="40", height=30.0)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (sample,), tally = read(path.rename(tmp_path / "A.JSON"))
    assert sample.objects() == 1
    assert tally.sentences() == []


def test_a_picture_of_another_size_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"segmentation": SQUARE}, width=80, height=60)
    with pytest.raises(InputError, match=r"a\.jpg: 80 x 60 in the JSON, the picture 40 x 30"):
        read(path)
    for size in ({"width": None, "height": None}, {"width": 0, "height": 0}):
        assert read(write(tmp_path, {"segmentation": SQUARE}, **size))[0][0].objects() == 1


def test_masks_follow_a_picture_that_exif_turns(tmp_path: Path) -> None:
    """Masks drawn on the stored pixels, and on those a viewer shows, by the size the JSON has."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[2:10, 20:36] = 255
    path = write(tmp_path, {"segmentation": [[20, 2, 36, 2, 36, 10, 20, 10]]})
    for orientation in range(5, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / "a.jpg", quality=100, exif=exif)
        (sample,), _ = read(path)
        picture, (mask,) = sample.image()[..., 0] > 127, masks_of(sample)
        assert picture.shape == sample.shape() == (WIDTH, HEIGHT)
        (tmp_path / "a.jpg").unlink()
        assert sample.labels().shape == (WIDTH, HEIGHT)  # without decoding the picture for it
        assert (picture == mask).mean() > 0.99
    path = write(tmp_path, {"segmentation": SQUARE}, width=HEIGHT, height=WIDTH)
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif)
    (sample,), _ = read(path)
    assert masks_of(sample)[0, 5:15, 5:15].all()


def test_pictures_that_are_damaged_missing_or_ambiguous(tmp_path: Path) -> None:
    path = write(tmp_path, {"segmentation": SQUARE}, {"segmentation": SQUARE, "image_id": 2})
    content = json.loads(path.read_text())
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    content["images"] += [
        {"id": 2, "file_name": "gone.jpg"},
        {"id": 3, "file_name": "bad.jpg"},
        {"id": 4},
        {"file_name": "a.jpg"},
        {"id": 5, "file_name": "a.jpg"},
        {"id": 6, "file_name": "b.jpg"},
        {"id": 6, "file_name": "c.jpg"},
        "image",
    ]
    path.write_text(json.dumps(content))
    samples, tally = read(path)
    assert [sample.name for sample in samples] == ["a"]
    assert tally.left_out() == {
        "pictures": {
            "without an id": 2,
            "not found": 1,
            "that cannot be read": 1,
            "without a file name": 1,
            "with the id of another": 2,
        },
        "annotations": {"of pictures that are left out": 1},
    }
    assert f"pictures were looked for in {tmp_path}/, {tmp_path.parent}/" in tally.sentences()


def test_a_size_beyond_all_pictures_is_another_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of another size than the JSON says"):
        read(write(tmp_path, {"segmentation": SQUARE}, width=10**9, height=10**9))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "a list of detections"),
        ([{"image_id": 1, "segmentation": SQUARE}], "the list of annotations only"),
        ({"shapes": [], "imagePath": "a.jpg", "version": "5"}, "labelme"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
        ([{"id": 1, "data": {}, "annotations": []}], "Label Studio"),
        ({"image": {}, "annotations": []}, "SA-1B"),
        ({"images": []}, 'no "annotations"'),
        ({"annotations": []}, 'no list "images"'),
        ({"images": {"1": {}}, "annotations": []}, '"images" is no list'),
        ({"images": [], "annotations": []}, "is empty"),
        ({"images": [{"id": 1}], "annotations": [{"segments_info": []}]}, "panoptic"),
        ([], "it is []"),
        (7, "it is 7"),
    ],
)
def test_other_json_is_named(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as told:
        CocoReader(path, None, Tally()).read()
    assert words in str(told.value)
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b'{"images": [', "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b"{}\n{}", "JSON Lines"),
        (b"9" * 5000, "no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read(path)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent.json")


def test_a_file_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"segmentation": SQUARE})
    size = path.stat().st_size
    check_fits(path, 4 * size)
    with pytest.raises(InputError, match=r"needs at least .* GB of memory, of which .* split it by images"):
        check_fits(path, 4 * size - 1)
