"""Reading pictures with masks, and packing them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import InputError
from tests.support.disks import limited_to
from tests.support.pictures import photo
from tests.support.training import TINY, masks_of, write_pair
from training.data import on_canvas, pack, read_pictures, read_samples
from training.tally import Tally


def test_pairs_give_masks_and_label_maps(tmp_path: Path) -> None:
    labels = write_pair(tmp_path, "b")
    write_pair(tmp_path, "a")
    first, second = read_samples(tmp_path, None, Tally())
    assert (first.name, second.name) == ("a", "b")
    assert (masks_of(second) == [labels == 1, labels == 2]).all()
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
    (sample,) = read_samples(tmp_path / "instances.json", None, Tally())
    box, line = masks_of(sample)
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
        read_samples(tmp_path / "bad.json", None, Tally())


def test_an_empty_folder_and_unequal_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures with masks"):
        read_samples(tmp_path, None, Tally())
    write_pair(tmp_path, "a")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="must be equal"):
        read_samples(tmp_path, None, Tally())


def test_a_packed_file_holds_what_the_folder_holds(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    samples = read_samples(tmp_path, None, Tally())
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(samples[1:], TINY, folder / "0.npz", quality=95)
    pack(samples[:1], TINY, folder / "1.npz", quality=95)
    (tmp_path / "twice").mkdir()
    for name in "ab":
        pack(samples[:1], TINY, tmp_path / f"twice/{name}.npz", quality=95)
    assert [sample.name for sample in read_samples(tmp_path / "twice", None, Tally())] == ["a/a", "b/a"]
    packed, other = read_samples(folder, None, Tally())
    assert (packed.name, other.name) == ("a", "b")
    assert sorted(sample.name for sample in read_pictures(folder, None, Tally())) == ["a", "b"]
    image, labels = on_canvas(samples[0], TINY)
    assert labels.shape == TINY.resized(*photo("4:3")[::2, ::2].shape[:2])
    assert (packed.labels() == labels).all()
    assert np.abs(packed.image().astype(int) - image).mean() < 4
    assert masks_of(packed).shape == (2, *labels.shape)
    (folder / "0.npz").write_bytes(b"PK no zip file")
    with pytest.raises(InputError, match="pack it again"):
        read_samples(folder, None, Tally())


def test_pictures_without_masks_and_with_some(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    labels = write_pair(images, "a")
    write_pair(images, "b")
    assert [masks_of(sample).shape[0] for sample in read_pictures(images, None, Tally())] == [0, 0]
    (images / "a.png").rename(masks / "a.png")
    (images / "b.png").unlink()
    some = read_pictures(images, masks, Tally())
    assert [masks_of(sample).shape[0] for sample in some] == [2, 0]
    assert (some[0].labels() == labels).all()
    assert not some[1].labels().any()
    (images / "c.jpg").write_bytes(b"no picture")
    (masks / "d.png").write_bytes((masks / "a.png").read_bytes())
    tally = Tally()
    assert [sample.name for sample in read_pictures(images, masks, tally)] == ["a", "b"]
    assert tally.left_out() == {
        "label maps": {"without a picture": 1},
        "pictures": {"that cannot be read": 1},
    }
    with pytest.raises(InputError, match="none cannot be read"):
        read_pictures(masks / "none", None, Tally())
    (masks / "a.png").unlink()
    with pytest.raises(InputError, match="holds no masks of pictures in"):
        read_pictures(images, masks, Tally())


def test_a_packed_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    samples = read_samples(tmp_path, None, Tally())
    (tmp_path / "p.npz").write_text("of before")
    with limited_to(1000), pytest.raises(InputError, match=r"cannot write .*p\.npz; check free space"):
        pack(samples, TINY, tmp_path / "p.npz", 80)
    assert (tmp_path / "p.npz").read_text() == "of before"
