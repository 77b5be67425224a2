"""Reading the data: pairs, COCO against pycocotools, and what is wrong with data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from evaluation.options import EvaluateOptions
from evaluation.scenes import Survey, choose_samples, read_scene, survey
from stages.errors import InputError
from tests.evaluation.data import write_pair
from tests.support.pictures import photo
from training.data import read_samples
from training.tally import Tally

pytestmark = pytest.mark.anyio


async def surveyed(path: Path) -> Survey:
    tally = Tally()
    return await survey(read_samples(path, None, tally), path, tally, lambda done: None)


def drawn(path: Path, limit: int, seed: int) -> list[str]:
    options = EvaluateOptions(data=path, out=path, prompts=(), limit=limit, seed=seed)
    return [sample.name for sample in choose_samples(options, Tally())]


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


async def test_pictures_that_cannot_be_used_are_left_out_and_told(pairs: Path) -> None:
    Image.fromarray(np.ones((5, 5), np.uint8)).save(pairs / "b.png")
    picture = pairs / "c.jpg"
    picture.write_bytes(picture.read_bytes()[:-2000])
    tally = Tally()
    found = await survey(read_samples(pairs, None, tally), pairs, tally, lambda done: None)
    assert [sample.name for sample in found.samples] == ["a"]
    assert tally.left_out() == {"pictures": {"with a label map of another size": 1, "that cannot be used": 1}}
    (sentence,) = tally.sentences()
    assert "b.png is 5 x 5 pixels, its picture 480 x 360; they must be equal" in sentence
    assert "c.jpg cannot be read" in sentence


async def test_masks_that_are_empty_in_the_picture_are_counted(tmp_path: Path) -> None:
    beside = [[-30, 10, 5, -30, -30, -30]]  # its box touches the picture, its area does not
    path = write_coco(tmp_path, [{"segmentation": beside}, {"segmentation": [[9, 9, 90, 9, 90, 90]]}])
    tally = Tally()
    found = await survey(read_samples(path, None, tally), path, tally, lambda done: None)
    assert found.instances == 1
    assert tally.sentences() == ["of 2 annotations 1 is left out: 1 with an empty mask (mask 1 of p)"]


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_pair(tmp_path, name, "square", (1, 1, 9, 9))
    by_seed = {seed: drawn(tmp_path, 4, seed) for seed in (0, 1, 2, 3)}
    assert all(names == sorted(names) and len(set(names)) == 4 for names in by_seed.values())
    assert len(set(map(tuple, by_seed.values()))) > 1
    assert by_seed[0] == drawn(tmp_path, 4, 0)
    assert drawn(tmp_path, 99, 0) == list("abcdefgh")


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
    scene = read_scene(read_samples(path, None, Tally())[0], 0)
    theirs = COCO(str(path))
    kept = [theirs.annToMask(theirs.anns[number]).astype(bool) for number in (1, 2, 5)]
    assert list(scene.instances) == [1, 2, 3]  # neither the crowd nor the empty one is an instance
    for number, expected in zip(scene.instances, kept, strict=True):
        assert (scene.mask(number) == expected).all()


async def test_data_without_a_mask_that_can_be_used_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [{"segmentation": {"size": [4, 5], "counts": [3, 8, 9]}}])
    with pytest.raises(InputError, match=r"1 with RLE of another size .*\(annotation 1 of p\.jpg: \[4, 5\]"):
        await surveyed(path)


def test_a_scene_is_blurred_and_its_masks_are_not(pairs: Path) -> None:
    sample = read_samples(pairs, None, Tally())[0]
    sharp, soft = read_scene(sample, 0), read_scene(sample, 8)
    assert (sharp.picture == sample.image()).all()
    assert (
        np.diff(soft.picture.astype(int), axis=1).std() < np.diff(sharp.picture.astype(int), axis=1).std() / 2
    )
    assert soft.instances == sharp.instances
