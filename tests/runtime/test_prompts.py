"""Prompts: what is read, what is refused, and the tokens the decoder gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.canvas import make_canvas
from runtime.prompts import MOST_POINTS, Prompt, Prompts, read_prompts
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.plans import POINTS

BOX = [10, 20, 30, 40]


def prompts_file(path: Path, *objects: Any) -> Path:
    path.write_text(json.dumps({"objects": list(objects)}))
    return path


def test_the_command_line_numbers_objects_boxes_first() -> None:
    prompts = read_prompts([(1, 2, 3, 4)], [(5, 6), (7, 8)], None)
    assert prompts.at(0) == (
        Prompt("1", (1, 2, 3, 4)),
        Prompt("2", None, ((5, 6, 1),)),
        Prompt("3", None, ((7, 8, 1),)),
    )


def test_a_file_continues_the_numbers(tmp_path: Path) -> None:
    path = prompts_file(
        tmp_path / "p.json", {"box": BOX, "points": [[1.5, 2, 0]]}, {"name": "cup", "box": BOX}
    )
    prompts = read_prompts([], [(5, 6)], path)
    assert [prompt.name for prompt in prompts.at(0)] == ["1", "2", "cup"]
    assert prompts.at(0)[1] == Prompt("2", (10, 20, 30, 40), ((1.5, 2, 0),))


def test_an_entry_of_the_same_name_replaces_the_earlier_one_from_its_frame_on() -> None:
    prompts = Prompts(
        (
            Prompt("b", None, ((1, 1, 1),), from_frame=3),
            Prompt("a", (0, 0, 9, 9)),
            Prompt("a", None, ((2, 2, 1),), from_frame=5),
        )
    )
    assert [(p.name, p.from_frame) for p in prompts.at(0)] == [("a", 0)]
    assert [(p.name, p.from_frame) for p in prompts.at(4)] == [("a", 0), ("b", 3)]
    assert [(p.name, p.from_frame) for p in prompts.at(5)] == [("a", 5), ("b", 3)]


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([{}], "neither a box nor a point"),
        ([{"name": "cup", "box": [1, 2, 3]}], "box of object cup is not [left, top, right, bottom]"),
        ([{"box": [1, 2, 3, "4"]}], "box of object 1 is not"),
        ([{"box": [1, 2, 3, True]}], "box of object 1 is not"),
        ([{"box": "1,2,3,4"}], "box of object 1 is not"),
        ([{"box": [5, 2, 5, 4]}], "box of object 1 is empty"),
        ([{"box": [1, 4, 5, 2]}], "left < right and top < bottom"),
        ([{"box": [1, 2, 3, float("nan")]}], "lies in no picture"),
        ([{"box": [1, 2, 3, float("inf")]}], "lies in no picture"),
        ([{"box": [1, 2, 3, 10**400]}], "lies in no picture"),
        ([{"points": [[1, 2]]}], "not a list of [x, y, label]"),
        ([{"points": [1, 2, 1]}], "not a list of [x, y, label]"),
        ([{"points": {"x": 1}}], "not a list of [x, y, label]"),
        ([{"points": [[1, 2, 2]]}], "label is neither 0 (background) nor 1"),
        ([{"points": [[1, 2, -1]]}], "label is neither 0 (background) nor 1"),
        ([{"points": [[1, 2, 1]] * 31}], "object 1 has 31 points; 30 are the most, give fewer"),
        ([{"box": BOX, "from_frame": -1}], "from_frame of object 1 is not a frame number"),
        ([{"box": BOX, "from_frame": 1.5}], "from_frame of object 1 is not a frame number"),
        ([{"box": BOX, "label": 1}], "unknown key 'label'"),
        ([{"box": BOX, "name": 7}], "has the name 7, expected text"),
        ([{"box": BOX, "name": ""}], "has the name '', expected text"),
        ([{"box": BOX, "name": "a"}, {"box": BOX, "name": "a"}], "object a is given twice from frame 0"),
        ([7], "must hold"),
        (None, "must hold"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, objects: Any, words: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"objects": objects}))
    with pytest.raises(InputError) as caught:
        read_prompts([], [], path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '"objects"', "[" * 100_000, "1" * 5000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"prompts file .*prompts\.json"):
        read_prompts([], [], path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        read_prompts([], [], tmp_path / "absent.json")


def test_nothing_to_segment_says_what_to_give() -> None:
    with pytest.raises(InputError, match="--box x0,y0,x1,y1, --point x,y or --prompts"):
        read_prompts([], [], None)


def test_an_object_of_the_command_line_is_not_replaced_in_silence(tmp_path: Path) -> None:
    path = prompts_file(tmp_path / "p.json", {"name": "1", "box": BOX})
    with pytest.raises(InputError, match="object 1 is given twice"):
        read_prompts([(1, 2, 3, 4)], [], path)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (
            Prompt("cup", None, ((100, 10, 1),)),
            "point 100,10 of object cup lies outside the frame of 100 x 50",
        ),
        (Prompt("cup", None, ((5, 10, 1), (-1, 10, 0))), "point -1,10"),
        (Prompt("cup", None, ((5, 50, 1),)), "point 5,50"),
        (Prompt("cup", (100, 0, 120, 9)), "box of object cup lies outside the frame of 100 x 50"),
        (Prompt("cup", (-9, 0, 0, 9)), "box of object cup"),
        (Prompt("cup", (0, 50, 9, 60)), "box of object cup"),
    ],
)
def test_what_lies_outside_the_frame_is_refused(prompt: Prompt, words: str) -> None:
    with pytest.raises(InputError) as caught:
        Prompts((prompt,)).check_inside([(50, 100)])
    assert words in str(caught.value)


def test_a_box_may_reach_over_the_frame() -> None:
    prompts = Prompts((Prompt("1", (-10, -10, 5, 5)), Prompt("2", None, ((0, 0, 1), (99.5, 49.5, 0)))))
    prompts.check_inside([(50, 100)])
    with pytest.raises(InputError):
        prompts.check_inside([(50, 100), (50, 99)])  # every size of the source counts


def tokens(prompt: Prompt) -> tuple[list[list[float]], list[float]]:
    canvas = make_canvas(np.zeros((192, 384, 3), np.uint8), GEOMETRIES["mini"])  # at scale 1
    coords, labels = prompt.decoder_tokens(canvas)
    assert coords.dtype == labels.dtype == np.float32
    assert len(coords) == len(labels) == prompt.tokens
    return coords.tolist(), labels.tolist()


def test_points_without_a_box_end_in_one_token_that_says_so() -> None:
    assert tokens(Prompt("1", None, ((7, 8, 1),))) == ([[7, 8], [0, 0]], [1, -1])
    three = Prompt("1", None, ((7, 8, 1), (9, 9, 0), (1, 2, 1)))
    assert tokens(three) == ([[7, 8], [9, 9], [1, 2], [0, 0]], [1, 0, 1, -1])


def test_a_box_ends_in_its_corners() -> None:
    assert tokens(Prompt("1", (1, 2, 3, 4))) == ([[1, 2], [3, 4]], [2, 3])
    assert tokens(Prompt("1", (1, 2, 3, 4), ((7, 8, 0),))) == ([[7, 8], [1, 2], [3, 4]], [0, 2, 3])


def test_as_many_points_as_an_object_may_have_fit_every_engine() -> None:
    prompt = Prompt("cup", (10, 20, 30, 40), ((1, 2, 1),) * MOST_POINTS)
    assert prompt.tokens == POINTS[-1]


def test_only_one_point_alone_is_ambiguous() -> None:
    assert Prompt("1", None, ((7, 8, 1),)).single_point
    assert not Prompt("1", None, ((7, 8, 1), (7, 8, 0))).single_point
    assert not Prompt("1", (1, 2, 3, 4), ((7, 8, 1),)).single_point
    assert not Prompt("1", (1, 2, 3, 4)).single_point
