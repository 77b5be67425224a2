"""Files of a frame: its own pixels, what the masks cover, and masks that COCO's own reader takes."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from runtime.frames.sources import Frame
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.preview.saving import FILES, make_file
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import draw_overlay
from stages.errors import InputError
from stages.tensors import Pixels

PIXELS = np.asarray(np.mgrid[:120, :160].sum(axis=0)[..., None] * [0.9, 0.5, 0.3] % 256, np.uint8)
CUP, SAUCER = np.zeros((2, 120, 160), bool)
CUP[20:60, 30:90] = True
CUP[20:30, 30:40] = False
SAUCER[50:100, 10:140] = True
BOX = Prompt("cup", (30.0, 20.0, 90.0, 60.0))
OBJECTS = (
    ObjectResult("cup", 0, TrackState.TRACKED, 0.93, CUP, BOX, Trust(0.84)),
    ObjectResult("Untertasse ☕", 1, TrackState.TRACKED, 0.7, SAUCER, None, Trust(0.3, Check.GREW)),
    ObjectResult("spoon", 2, TrackState.LOST, 0.0, None),
)


def frame(name: str = "table", objects: tuple[ObjectResult, ...] = OBJECTS) -> FrameResult:
    return FrameResult(Frame(7, name, 0.5, PIXELS), objects)


def picture(file: str, name: str | None = None) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(make_file(file, frame(), name, None).data)))


def test_the_frame_is_kept_to_the_pixel() -> None:
    assert np.array_equal(picture("frame.png"), PIXELS)


@pytest.mark.parametrize("name", [None, "cup"])
def test_a_frame_with_masks_is_drawn_as_in_recordings_without_its_prompts(name: str | None) -> None:
    chosen = tuple(
        ObjectResult(each.name, each.colour, each.state, each.iou, each.mask, None, each.trust)
        for each in OBJECTS
        if name in (None, each.name)
    )
    expected = draw_overlay(frame(objects=chosen), None)
    assert np.array_equal(picture("overlay.png", name), expected)
    difference = np.abs(picture("overlay.jpg", name).astype(int) - expected)
    assert difference.mean() < 5


def test_a_cut_out_has_the_object_and_nothing_else() -> None:
    found = picture("cutout.png", "cup")
    part = np.s_[20:60, 30:90]
    assert np.array_equal(found[..., 3] > 0, CUP[part])
    assert np.array_equal(found[..., :3][CUP[part]], PIXELS[part][CUP[part]])
    assert not found[~CUP[part]].any()  # what is transparent hides no pixels
    both = picture("cutout.png")
    assert np.array_equal(both[..., 3] > 0, (CUP | SAUCER)[20:100, 10:140])


def test_masks_are_what_coco_reads(tmp_path: Path) -> None:
    made = make_file("coco.json", frame(), None, None)
    path = tmp_path / made.name
    path.write_bytes(made.data)
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["width"], image["height"], image["file_name"]) == (160, 120, "table.png")
    assert image["file_name"] == make_file("frame.png", frame(), None, None).name
    names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == ["cup", "Untertasse ☕"]
    for number, mask in zip(coco.getAnnIds(imgIds=[1]), (CUP, SAUCER), strict=True):
        (annotation,) = coco.loadAnns([number])
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    assert coco.anns[2]["check"] == "grew"
    assert coco.anns[1]["bbox"] == [30, 20, 60, 40]


def test_one_object_alone() -> None:
    data: dict[str, Any] = json.loads(make_file("coco.json", frame(), "cup", None).data)
    assert [each["name"] for each in data["categories"]] == ["cup"]


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("table", None, "table_cutout.png"),
        ("../..", "cup", "frame_cup_cutout.png"),
        ("a/b:c", "Untertasse ☕", "a_b_c_Untertasse_cutout.png"),
        ("\ud800", None, "frame_cutout.png"),
    ],
)
def test_names_of_files_are_safe_on_every_system(source: str, name: str | None, expected: str) -> None:
    made = make_file("cutout.png", frame(source), name, None)
    assert made.name == expected
    made.name.encode()


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="there is no object fork on frame 7"):
        make_file("coco.json", frame(), "fork", None)
    with pytest.raises(InputError, match="no object has a mask on frame 7, so there is nothing to cut out"):
        make_file("cutout.png", frame(), "spoon", None)


def test_without_objects_only_a_cut_out_cannot_be_made() -> None:
    bare = frame(objects=())
    for file in FILES:
        if file == "cutout.png":
            with pytest.raises(InputError, match="nothing to cut out"):
                make_file(file, bare, None, None)
        else:
            assert make_file(file, bare, None, None).data
