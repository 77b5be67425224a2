"""Reading the data: pairs, COCO against pycocotools, and what is wrong with data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from evaluation.scenes import Survey, choose_samples, read_scene, survey
from export.data import read_samples
from stages.errors import InputError
from tests.evaluation.data import write_pair
from tests.pictures import photo

pytestmark = pytest.mark.anyio


async def surveyed(path: Path) -> Survey:
    return await survey(read_samples(path), path, lambda done: None)


async def test_pictures_without_instances_are_not_measured(pairs: Path) -> None:
    write_pair(pairs, "empty", "square")
    found = await surveyed(pairs)
    assert [sample.name for sample in found.samples] == ["a", "b", "c"]
    assert found.sizes == {(360, 640), (360, 480), (480, 270)}
    assert found.instances == 5


async def test_data_without_instances_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "empty", "square")
    with pytest.raises(
        InputError, match=r"none of the 1 pictures read from .* holds an instance; give --data"
    ):
        await surveyed(tmp_path)


async def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures with masks"):
        await surveyed(tmp_path)


async def test_a_label_map_of_another_size_is_refused(pairs: Path) -> None:
    Image.fromarray(np.ones((5, 5), np.uint8)).save(pairs / "b.png")
    with pytest.raises(
        InputError, match=r"b\.png is 5 x 5 pixels, its picture 480 x 360; they must be equal"
    ):
        await surveyed(pairs)


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_pair(tmp_path, name, "square", (1, 1, 9, 9))
    drawn = {seed: [sample.name for sample in choose_samples(tmp_path, 4, seed)] for seed in (0, 0, 1, 2, 3)}
    assert all(names == sorted(names) and len(set(names)) == 4 for names in drawn.values())
    assert len(set(map(tuple, drawn.values()))) > 1
    assert drawn[0] == [sample.name for sample in choose_samples(tmp_path, 4, 0)]
    assert [sample.name for sample in choose_samples(tmp_path, 99, 0)] == list("abcdefgh")


def write_coco(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    Image.fromarray(photo("4:3")).save(folder / "p.jpg")
    height, width = photo("4:3").shape[:2]
    data = {
        "images": [{"id": 7, "file_name": "p.jpg", "height": height, "width": width}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 1, "iscrowd": 0, **annotation}
            for number, annotation in enumerate(annotations, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_coco_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    area = 360 * 480
    annotations: list[dict[str, Any]] = [
        {"segmentation": [[20.5, 30, 120, 35.5, 100, 190], [200, 200, 260, 200, 230.3, 300.7]]},
        {"segmentation": {"size": [360, 480], "counts": [3605, 20, area - 3625]}},
        {"segmentation": {"size": [360, 480], "counts": [100, 900, area - 1000]}, "iscrowd": 1},
        {"segmentation": {"size": [360, 480], "counts": [area]}},  # nothing
        {"segmentation": [[300, 50, 400, 50, 400, 120, 300, 120]]},
    ]
    path = write_coco(tmp_path, annotations)
    scene = read_scene(read_samples(path)[0], 0)
    theirs = COCO(str(path))
    kept = [theirs.annToMask(theirs.anns[number]).astype(bool) for number in (1, 2, 5)]
    assert list(scene.instances) == [1, 2, 4]  # the crowd is no instance, the empty one not measured
    for found, expected in zip(scene.instances.values(), kept, strict=True):
        assert (found == expected).all()


def test_coco_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [{"segmentation": {"size": [4, 5], "counts": [3, 8, 9]}}])
    with pytest.raises(InputError, match="masks of p are 5 x 4 pixels, its picture 480 x 360"):
        read_scene(read_samples(path)[0], 0)


def test_a_scene_is_blurred_and_its_masks_are_not(pairs: Path) -> None:
    sample = read_samples(pairs)[0]
    sharp, soft = read_scene(sample, 0), read_scene(sample, 8)
    assert (sharp.picture == sample.image()).all()
    assert (
        np.diff(soft.picture.astype(int), axis=1).std() < np.diff(sharp.picture.astype(int), axis=1).std() / 2
    )
    assert all((soft.instances[number] == mask).all() for number, mask in sharp.instances.items())
