"""Prompts: what is read, what is refused, and the tokens the decoder gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.frames.canvas import make_canvas
from runtime.objects.prompts import MAX_POINTS, Prompt, Prompts, read_prompts
from stages.engines.plans import POINTS
from stages.errors import InputError
from stages.geometry import GEOMETRIES

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
        ([{"box": [1, 2, 3, float("nan")]}], "NaN is no number that can be used (line 1, column"),
        ([{"box": [1, 2, 3, float("inf")]}], "Infinity is no number that can be used (line 1, column"),
        ([{"box": [1, 2, 3, 10**400]}], "is no number that can be used (line 1, column"),
        ([{"box": [1, 2, 3, 10**30]}], "not a finite number below 1e6"),
        ([{"points": [[1, 2]]}], "not a list of [x, y, label]"),
        ([{"points": [1, 2, 1]}], "not a list of [x, y, label]"),
        ([{"points": {"x": 1}}], "not a list of [x, y, label]"),
        ([{"points": [[1, 2, 2]]}], "label is neither 0 (background) nor 1"),
        ([{"points": [[1, 2, -1]]}], "label is neither 0 (background) nor 1"),
        ([{"points": [[1, 2, 1]] * 31}], "object 1 has 31 points; 30 are the most, give fewer"),
        ([{"box": BOX, "from_frame": -1}], "from_frame of object 1 is not a frame number"),
        ([{"box": BOX, "from_frame": 1.5}], "from_frame of object 1 is not a frame number"),
        ([{"box": BOX}, {"box": BOX, "label": 1}], "object 2 has the unknown key 'label'; known are box"),
        ([{"box": BOX, "name": "cup", "label": 1}], "object cup has the unknown key 'label'"),
        ([{"box": BOX}, {"box": BOX, "name": 7}], "object 2 has the name 7, expected text"),
        ([{"box": BOX, "name": ""}], "object 1 has the name '', expected text"),
        ([{"box": BOX, "name": "a"}, {"box": BOX, "name": "a"}], "object a is given twice from frame 0"),
        ([{"box": BOX}, 7], 'object 2 is 7, expected {"objects": [{...}, ...]}'),
        ([[1, 2, 3, 4]], "object 1 is a list, expected"),
        ({"box": BOX}, '"objects" is an object, expected {"objects"'),
        (None, '"objects" is null, expected'),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"box": BOX}], "it holds a list"),
        ({"objects": [{"box": BOX}], "extra": 1}, "it has the unknown key 'extra'"),
        ({"box": BOX}, "it has the unknown key 'box'"),
        ({}, 'it has no "objects"'),
    ],
)
def test_what_else_a_file_holds_is_told(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_prompts([], [], path)
    assert str(caught.value) == f'prompts file {path}: {words}, expected {{"objects": [{{...}}, ...]}}'


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        read_prompts([], [], tmp_path / "absent.json")


@pytest.mark.parametrize("points", [[[1.5, 2, 0]], [[1.5, 2, 0], [9, 9, 0]]])
def test_background_points_alone_are_nothing_to_look_for(tmp_path: Path, points: list[list[float]]) -> None:
    """The decoder would answer with some mask or other."""
    path = prompts_file(tmp_path / "p.json", {"name": "cup", "points": points})
    with pytest.raises(InputError) as caught:
        read_prompts([], [], path)
    words = "object cup has only background points (label 0): add a point on it (label 1), or a box"
    assert str(caught.value) == f"prompts file {path}: {words}"


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
        Prompts((prompt,)).inside([(50, 100)], pytest.fail)
    assert words in str(caught.value)


def test_an_object_of_an_earlier_run_outside_the_frame_is_left_out_and_told() -> None:
    """The camera has another size now: a service must not end for it."""
    here, outside = Prompt("cup", (1, 1, 9, 9)), Prompt("dog", (100, 0, 120, 9))
    told: list[str] = []
    old = replace(outside, asked=outside)
    assert Prompts((here, old)).inside([(50, 100)], told.append).entries == (here,)
    (line,) = told
    assert line.startswith("object dog of the last run is left out: the box of object dog lies outside")


def test_a_box_may_reach_over_the_frame() -> None:
    prompts = Prompts((Prompt("1", (-10, -10, 5, 5)), Prompt("2", None, ((0, 0, 1), (99.5, 49.5, 0)))))
    assert prompts.inside([(50, 100)], pytest.fail) == prompts
    with pytest.raises(InputError):
        prompts.inside([(50, 100), (50, 99)], pytest.fail)  # every size of the source counts


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
    prompt = Prompt("cup", (10, 20, 30, 40), ((1, 2, 1),) * MAX_POINTS)
    assert prompt.tokens == POINTS[-1]


def test_only_one_point_alone_is_ambiguous() -> None:
    assert Prompt("1", None, ((7, 8, 1),)).single_point
    assert not Prompt("1", None, ((7, 8, 1), (7, 8, 0))).single_point
    assert not Prompt("1", (1, 2, 3, 4), ((7, 8, 1),)).single_point
    assert not Prompt("1", (1, 2, 3, 4)).single_point


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (
            Prompt("1", (0.18, 0.30, 0.49, 0.70)),
            "the box of object 1 (0.18,0.3,0.49,0.7) lies within",
        ),
        (Prompt("cup", None, ((0.5, 0.25, 1),)), "each point of object cup (0.5,0.25) lies within one pixel"),
        (Prompt("a", (0, 0, 1, 1)), "the box of object a (0,0,1,1) lies within"),
        (Prompt("a", (0, 0, 0.5, 1), ((0.2, 1, 0),)), "the box of object a (0,0,0.5,1,0.2,1) lies within"),
    ],
)
def test_coordinates_that_look_like_shares_of_the_frame_are_doubted(prompt: Prompt, words: str) -> None:
    (doubt,) = Prompts((Prompt("other", (1, 2, 3, 4)), prompt)).doubts()
    assert doubt.startswith(words)
    assert doubt.endswith("coordinates are pixels of the frame, not shares of its width and height")


@pytest.mark.parametrize("points", [(), ((10, 10, 1),)])
def test_a_box_of_one_pixel_is_doubted(points: tuple[tuple[float, float, int], ...]) -> None:
    (doubt,) = Prompts((Prompt("a", (30, 40, 31, 41), points),)).doubts()
    assert "is one pixel: give left, top, right and bottom in pixels" in doubt


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("1", (0.18, 0.30, 490, 700)),
        Prompt("1", (9, 9, 10, 11)),
        Prompt("1", None, ((0, 0, 1), (1, 1, 0))),
        Prompt("1", (0.1, 0.2, 1.9, 0.8), ((10, 10, 1),)),
        Prompt("1", (-0.5, 0.2, 0.9, 0.8)),
    ],
)
def test_pixels_are_not_doubted(prompt: Prompt) -> None:
    assert list(Prompts((prompt,)).doubts()) == []


def test_a_picture_that_an_object_lies_outside_of_is_named() -> None:
    prompts = Prompts((Prompt("1", None, ((300, 20, 1),)),))
    with pytest.raises(InputError, match=r"outside the frame of 200 x 100 pixels of small\.jpg"):
        prompts.inside([(100, 400), (100, 200)], print, {(100, 200): "small.jpg", (100, 400): "large.jpg"})
