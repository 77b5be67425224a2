"""Reading pictures with masks, and packing them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.data import on_canvas, pack, read_pictures, read_samples
from export.pictures import InMemory, OnDisk, open_pictures
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
    write_pair(tmp_path, "b")
    samples = read_samples(tmp_path)
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(samples[1:], TINY, folder / "0.npz", quality=95)
    pack(samples[:1], TINY, folder / "1.npz", quality=95)
    packed, other = read_samples(folder)
    assert (packed.name, other.name) == ("a", "b")
    assert sorted(sample.name for sample in read_pictures(folder)) == ["a", "b"]
    image, labels = on_canvas(samples[0], TINY)
    assert labels.shape == TINY.resized(*photo("4:3")[::2, ::2].shape[:2])
    assert (packed.labels() == labels).all()
    assert np.abs(packed.image().astype(int) - image).mean() < 4
    assert packed.masks().shape == (2, *labels.shape)
    (folder / "0.npz").write_bytes(b"PK no zip file")
    with pytest.raises(InputError, match="pack it again"):
        read_samples(folder)


def test_pictures_without_masks_and_with_some(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    labels = write_pair(images, "a")
    write_pair(images, "b")
    assert [sample.masks().shape[0] for sample in read_pictures(images)] == [0, 0]
    (images / "a.png").rename(masks / "a.png")
    (images / "b.png").unlink()
    some = read_pictures(images, masks)
    assert [sample.masks().shape[0] for sample in some] == [2, 0]
    assert (some[0].labels() == labels).all()
    assert not some[1].labels().any()
    with pytest.raises(InputError, match="holds no pictures"):
        read_pictures(masks / "none")
    (masks / "a.png").unlink()
    with pytest.raises(InputError, match="holds no masks of pictures in"):
        read_pictures(images, masks)


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_pictures_come_by_number_on_the_canvas(tmp_path: Path, kind: type[InMemory] | type[OnDisk]) -> None:
    first, second = write_pair(tmp_path, "a"), write_pair(tmp_path, "b")
    second[:10] = 9
    Image.fromarray(second).save(tmp_path / "b.png")
    samples = read_samples(tmp_path)
    pictures = kind(samples, TINY, torch.device("cpu"))
    pictures.expect([1, 0, 1])
    images, labels, sizes = pictures.take([1, 0, 1])
    rows, cols = TINY.resized(*first.shape)
    assert sizes.tolist() == [[rows, cols]] * 3
    assert images.shape == (3, 80, 80, 3)
    for n, sample in zip((0, 1, 2), (samples[1], samples[0], samples[1]), strict=True):
        image, label_map = on_canvas(sample, TINY)
        assert (images[n, :rows, :cols].numpy() == image).all()
        assert (labels[n, :rows, :cols].numpy() == label_map).all()
        assert not images[n, rows:].any()
    assert pictures.count == 2


def test_few_pictures_are_kept_in_memory_and_many_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path, "a")
    samples = read_samples(tmp_path)
    assert isinstance(open_pictures(samples, TINY, torch.device("cpu")), InMemory)
    monkeypatch.setattr("export.pictures.MEMORY", 80 * 80 * 4 - 1)
    assert isinstance(open_pictures(samples, TINY, torch.device("cpu")), OnDisk)
