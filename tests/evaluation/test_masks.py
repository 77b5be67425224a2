"""Prompts, floors and the blur against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.masks import (
    blurred,
    box_of,
    deepest_point,
    floor_ious,
    inscribed_ellipse,
    prompt_for,
    prompt_kinds,
)
from runtime.objects.masks import Mask
from stages.errors import InputError
from tests.support.pictures import photo


def drawn(*rows: str) -> Mask:
    """A mask from rows of "#" and "."."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_a_box_ends_just_past_the_last_pixels() -> None:
    assert box_of(drawn("......", "..##..", "...#..", "......")) == (2, 1, 4, 3)
    assert box_of(drawn("#")) == (0, 0, 1, 1)


def test_the_deepest_point_of_a_square_is_its_middle() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:10, 12:19] = True
    assert deepest_point(mask) == (15, 6)


def test_the_border_of_the_picture_is_outside() -> None:
    assert deepest_point(np.ones((5, 5), bool)) == (2, 2)
    assert deepest_point(drawn("###.", "###.", "###.", "....")) == (1, 1)


def test_the_deepest_point_is_where_a_shape_is_thickest() -> None:
    mask = np.zeros((40, 60), bool)
    mask[18:21, 2:50] = True  # a thin handle
    mask[10:29, 38:57] = True  # a square head of 19, whose middle is 47, 19
    assert deepest_point(mask) == (47, 19)


RING = np.hypot(*(np.mgrid[:41, :41] - 20)) < 20
RING &= np.hypot(*(np.mgrid[:41, :41] - 20)) > 12
LETTER_L = np.zeros((50, 50), bool)
LETTER_L[:, :6] = LETTER_L[-6:] = True


@pytest.mark.parametrize("mask", [RING, LETTER_L, drawn("#.#", "#.#", "###")])
def test_the_deepest_point_of_a_concave_mask_lies_inside(mask: Mask) -> None:
    rows, cols = np.nonzero(mask)
    assert not mask[round(rows.mean()), round(cols.mean())]  # where the centre of mass does not
    x, y = deepest_point(mask)
    assert mask[y, x]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_prompts_lie_on_any_mask(height: int, width: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.random((height, width)) < 0.4
    mask[draw.integers(height), draw.integers(width)] = True
    x, y = deepest_point(mask)
    x0, y0, x1, y1 = box_of(mask)
    assert mask[y, x]
    assert mask.sum() == mask[y0:y1, x0:x1].sum()
    assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_prompts_are_those_of_the_runtime() -> None:
    mask = drawn("....", ".###", ".###", ".###")
    box, point = prompt_for("box", "1", mask), prompt_for("point", "2", mask)
    assert (box.name, box.box_xyxy, box.points) == ("1", (1, 1, 4, 4), ())
    assert (point.name, point.box_xyxy, point.points) == ("2", None, ((2, 2, 1),))


def test_floors_by_hand() -> None:
    cross = np.zeros((30, 30), bool)
    cross[10:20, 5:25] = cross[5:25, 10:20] = True  # 300 pixels in a box of 400
    floors = floor_ious(cross)
    assert floors["box"] == 300 / 400
    ellipse = inscribed_ellipse(20, 20)
    inside = int((ellipse & cross[5:25, 5:25]).sum())
    assert floors["ellipse"] == inside / (300 + ellipse.sum() - inside)
    assert floor_ious(np.pad(inscribed_ellipse(30, 50), 9))["ellipse"] == 1.0


def test_an_inscribed_ellipse_touches_its_box_and_has_its_area() -> None:
    assert (inscribed_ellipse(4, 4) == drawn(".##.", "####", "####", ".##.")).all()
    assert inscribed_ellipse(1, 1).all()
    large = inscribed_ellipse(200, 400)
    assert large.sum() == pytest.approx(np.pi * 100 * 200, rel=0.002)
    assert box_of(large) == (0, 0, 400, 200)


def test_kinds_are_read_in_their_order_and_once() -> None:
    assert prompt_kinds("box, point,box") == ("box", "point")


@pytest.mark.parametrize("text", ["", "point,scribble", "Box"])
def test_an_unknown_kind_is_told(text: str) -> None:
    with pytest.raises(
        InputError, match=r"prompt kind '.*' is unknown; give --prompts point or box, or point,box"
    ):
        prompt_kinds(text)


def test_a_blur_of_zero_is_none() -> None:
    picture = photo("4:3")
    assert blurred(picture, 0) is picture


def test_a_blur_scales_with_the_longest_side() -> None:
    """The spread of a blurred edge: sigma in pixels of a picture of 1024, so half of it at 512."""
    for shape, expected in (((1024, 700), 6.0), ((300, 512), 3.0)):
        picture = np.zeros((*shape, 3), np.uint8)
        picture[:, shape[1] // 2 :] = 255
        profile = np.diff(blurred(picture, 6)[shape[0] // 2, :, 0].astype(float))
        where = np.arange(len(profile))
        mean = (profile * where).sum() / profile.sum()
        sigma_px = np.sqrt((profile * (where - mean) ** 2).sum() / profile.sum())
        assert sigma_px == pytest.approx(expected, rel=0.05)


def test_a_blur_keeps_colours_apart() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    assert (blurred(red, 50) == red).all()
