"""Reading pictures with masks, and packing them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.data import pack, read_packed, read_samples
from stages.errors import InputError
from stages.geometry import Geometry
from tests.pictures import photo

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 4, (1, 3))


def write_pair(folder: Path, name: str) -> np.ndarray:
    """A photograph with two instances, one upon the other; returns its label map."""
    picture = photo("4:3")[::2, ::2]
    labels = np.zeros(picture.shape[:2], np.uint8)
    labels[20:150, 10:200] = 2
    labels[60:100, 50:90] = 1
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    Image.fromarray(labels).save(folder / f"{name}.png")
    return labels


def test_pairs_give_masks_and_label_maps(tmp_path: Path) -> None:
    labels = write_pair(tmp_path, "b")
    write_pair(tmp_path, "a")
    first, second = read_samples(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert (second.masks() == [labels == 1, labels == 2]).all()
    assert (second.labels() == labels).all()


def test_coco_polygons_and_run_lengths_without_crowds(tmp_path: Path) -> None:
    picture = photo("4:3")[::2, ::2]
    Image.fromarray(picture).save(tmp_path / "p.jpg")
    height, width = picture.shape[:2]
    counts = [10 * height + 5, 20, height * width - 10 * height - 25]  # 20 pixels of column 10
    annotations = [
        {"image_id": 7, "segmentation": [[20, 30, 120, 30, 120, 90, 20, 90]]},
        {"image_id": 7, "segmentation": {"size": [height, width], "counts": counts}},
        {"image_id": 7, "iscrowd": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]},
    ]
    data = {"images": [{"id": 7, "file_name": "p.jpg"}], "annotations": annotations}
    (tmp_path / "instances.json").write_text(json.dumps(data))
    (sample,) = read_samples(tmp_path / "instances.json")
    box, line = sample.masks()
    assert box[60, 70]
    assert abs(int(box.sum()) - 100 * 60) < 200
    assert line.sum() == 20
    assert line[5:25, 10].all()


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"images": [{"id": 1, "file_name": "no.jpg"}], "annotations": []}']
)
def test_a_bad_coco_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=r"bad\.json|no\.jpg"):
        read_samples(tmp_path / "bad.json")


def test_an_empty_folder_and_unequal_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures with masks"):
        read_samples(tmp_path)
    write_pair(tmp_path, "a")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="must be equal"):
        read_samples(tmp_path)[0].labels()


def test_a_packed_file_holds_what_the_folder_holds(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    pack(read_samples(tmp_path), TINY, tmp_path / "p.npz", quality=95)
    direct, packed = read_packed(tmp_path, TINY), read_packed(tmp_path / "p.npz", TINY)
    assert (direct.labels == packed.labels).all()
    assert (direct.sizes == packed.sizes).all()
    assert tuple(direct.sizes[0]) == TINY.resized(*photo("4:3")[::2, ::2].shape[:2])
    assert np.abs(direct.images.astype(int) - packed.images).mean() < 4
    with pytest.raises(InputError, match="packed for 80 pixels, expected 160"):
        read_packed(tmp_path / "p.npz", Geometry("other", 160, 16, 2, 24, 3, 4, (1, 3)))
