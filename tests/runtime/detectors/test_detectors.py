"""Faces and text are found where they are, in pictures of any size; a user's own function in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from runtime.detectors.faces import Faces
from runtime.detectors.kinds import make_find
from runtime.detectors.network import DetectorOptions, Find
from runtime.frames.boxes import BoxXyxy
from stages.errors import InputError
from stages.tensors import Array, Pixels

SMALL = DetectorOptions(px=512, threads=1)
ASTRONAUT: Pixels = data.astronaut()  # type: ignore[no-untyped-call]
FACE = (180.0, 70.0, 270.0, 190.0)  # of scikit-image's astronaut, 512 x 512, by eye
GREY = np.full((300, 500, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def faces() -> Find:
    return make_find("faces", SMALL)


@pytest.fixture(scope="module")
def text() -> Find:
    return make_find("text", SMALL)


def overlap(one: BoxXyxy, other: BoxXyxy) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def page(words: str, left: int, top: int, size: int = 28) -> Pixels:
    """A picture, 640 x 400, with words on it."""
    picture = Image.new("RGB", (640, 400), (90, 120, 140))
    ImageDraw.Draw(picture).text((left, top), words, (250, 250, 250), ImageFont.load_default(size))
    return np.asarray(picture)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_a_face_is_found_where_it_is(faces: Find, scale: float) -> None:
    picture = np.asarray(cv2.resize(ASTRONAUT, None, fx=scale, fy=scale), np.uint8)
    boxes = list(faces(picture))
    place = tuple(scale * number for number in FACE)
    assert max(overlap(box, place) for box in boxes) > 0.5  # type: ignore[arg-type]


def test_its_landmarks_are_in_it_eyes_above_the_mouth() -> None:
    best = Faces(SMALL).faces(ASTRONAUT, score=0.5)[0]
    left, top, right, bottom = best.box
    assert ((best.landmarks > (left, top)) & (best.landmarks < (right, bottom))).all()
    eyes, mouth = best.landmarks[:2], best.landmarks[3:]
    assert eyes[:, 1].max() < mouth[:, 1].min()
    assert eyes[0, 0] < eyes[1, 0]


def test_all_words_are_inside_boxes(text: Find) -> None:
    picture = page("Nobody reads this", 60, 200)
    written = np.abs(picture.astype(int) - picture[0, 0]).sum(axis=2) > 60
    boxed = np.zeros_like(written)
    for left, top, right, bottom in text(picture):
        boxed[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)] = True
    assert written.sum() > 1000
    assert (written & ~boxed).sum() == 0
    assert boxed.mean() < 0.1


@pytest.mark.parametrize("kind", ["faces", "text"])
def test_nothing_is_found_in_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    find: Find = request.getfixturevalue(kind)
    assert list(find(GREY)) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 3), (37, 53)])
def test_any_size_is_taken(faces: Find, text: Find, size: tuple[int, int]) -> None:
    for find in (faces, text):
        list(find(np.zeros((*size, 3), np.uint8)))


def left_half(picture: Pixels) -> list[tuple[int, int, int, int]]:
    return [(0, 0, picture.shape[1] // 2, picture.shape[0])]


def not_finite(picture: Pixels) -> list[tuple[float, ...]]:
    return [(0, 0, float("nan"), 1)]


def too_few(picture: Pixels) -> list[tuple[int, ...]]:
    return [(0, 0, 1)]


def with_scores(picture: Pixels) -> list[tuple[float, ...]]:
    return [(0, 0, 9, 9, 0.5, 1), (5, 5, 9, 9, 0.5, 1)]


def as_width_and_height(picture: Pixels) -> list[tuple[float, ...]]:
    return [(50, 60, 20, 10)]


def no_list(picture: Pixels) -> None:
    return None


def a_dict(picture: Pixels) -> dict[str, int]:
    return {"boxes": 1}


def outside(picture: Pixels) -> list[tuple[int, ...]]:
    return [(600, 10, 700, 20)]


def as_arrays(picture: Pixels) -> Iterator[Array]:
    yield np.array([1, 2, 3, 4])


def nothing(picture: Pixels) -> Array:
    return np.zeros((0, 4))


NUMBER = 3


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Names a function of this file as a user would."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_plates.py").write_text(f"from {__name__} import *\n", encoding="utf-8")
    return lambda name: f"my_plates:{name}"


def test_a_users_own_function_is_one_too(own: Callable[[str], str]) -> None:
    assert list(make_find(own("left_half"), SMALL)(GREY)) == [(0.0, 0.0, 250.0, 300.0)]


def test_it_may_give_arrays_one_by_one_and_none_at_all(own: Callable[[str], str]) -> None:
    assert list(make_find(own("as_arrays"), SMALL)(GREY)) == [(1.0, 2.0, 3.0, 4.0)]
    assert list(make_find(own("nothing"), SMALL)(GREY)) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not_finite", "not finite"),
        ("too_few", r"numbers of shape \[1, 3\], not boxes: expected \(left, top"),
        ("no_list", "it gave NoneType, not boxes"),
        ("a_dict", "it gave dict, not boxes"),
        ("outside", "outside the picture of 500 x 300 pixels"),
        ("with_scores", r"of shape \[2, 6\]"),
        ("as_width_and_height", "ends before it begins"),
    ],
)
def test_what_it_gives_must_be_boxes(own: Callable[[str], str], name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_find(own(name), SMALL)(GREY)


def test_a_module_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "my_ending.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"my_ending:find fails when it is imported \(SystemExit: 0\)"):
        make_find("my_ending:find", SMALL)
    with pytest.raises(InputError, match=r"my_broken:find fails when it is imported \(ZeroDivisionError: "):
        make_find("my_broken:find", SMALL)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "face",
            "'face' is nothing that can be kept; expected faces, text, or module:function",
        ),
        ("", "'' is nothing"),
        (":find", "':find' is nothing"),
        ("no_such_module:find", "--keep no_such_module:find cannot be imported: .*PYTHONPATH"),
        ("math:no_such", "--keep math:no_such cannot be found"),
        ("math:pi", "--keep math:pi is no function"),
    ],
)
def test_what_is_no_detector_is_a_sentence(kind: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_find(kind, SMALL)
