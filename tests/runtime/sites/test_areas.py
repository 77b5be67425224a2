"""Shares of the picture, counted by hand on vit_b: windows of 224 pixels on a canvas of 1024."""

from __future__ import annotations

import pytest

from runtime.sites.areas import Areas
from stages.geometry import GEOMETRIES

VIT_B = GEOMETRIES["vit_b"]
WIDE, TALL = (1080, 1920), (1920, 1080)  # 1024 x 576 and 576 x 1024 on the canvas
WHOLE, LOWER, RIGHT = (side / (1024 * 576) for side in (224 * 224, 224 * 128, 128 * 224))


def test_a_window_has_what_lies_in_it() -> None:
    areas = Areas.of(VIT_B, [WIDE])
    assert areas.windows == frozenset(range(15))
    for window, share in ((0, WHOLE), (4, RIGHT), (10, LOWER), (14, 128 * 128 / (1024 * 576)), (15, 0.0)):
        assert areas.share([window]) == pytest.approx(share)
    assert areas.share([0, 4, 10]) == pytest.approx(WHOLE + RIGHT + LOWER)
    assert areas.share(range(25)) == pytest.approx(1.0)


def test_of_several_shapes_the_one_with_the_largest_share_counts() -> None:
    areas = Areas.of(VIT_B, [WIDE, TALL])
    assert areas.windows == frozenset(range(15)) | {15, 16, 17, 20, 21, 22}
    assert areas.share([3]) == pytest.approx(WHOLE)  # none of the tall one is in it
    assert areas.share([15]) == pytest.approx(WHOLE)
    assert areas.share([3, 15]) == pytest.approx(WHOLE)  # of one picture, never of two


def test_the_most_that_more_windows_can_hold() -> None:
    areas = Areas.of(VIT_B, [WIDE])
    assert areas.most([0], 2) == pytest.approx(3 * WHOLE)
    assert areas.most(range(8), 0) == pytest.approx(areas.share(range(8)))
    assert areas.most([10], 8) == pytest.approx(LOWER + 8 * WHOLE)
    assert areas.most([10], 99) == pytest.approx(1.0)


def test_what_is_kept_is_shown_to_nobody_else_but_was_seen() -> None:
    areas = Areas.of(VIT_B, [WIDE], kept={0, 1})
    assert areas.windows == frozenset(range(2, 15))
    assert areas.share([0, 2]) == pytest.approx(2 * WHOLE)
    assert areas.most([0, 2], 99) == pytest.approx(1 - WHOLE)


def test_windows_of_another_grid_hold_nothing() -> None:
    areas = Areas.of(VIT_B, [WIDE])
    assert areas.share([-1, 990]) == 0
    assert areas.most([-1, 990], 1) == pytest.approx(WHOLE)


def test_without_a_shape_there_is_no_picture() -> None:
    areas = Areas.of(VIT_B, [])
    assert (areas.windows, areas.share(range(25)), areas.most([1], 3)) == (frozenset(), 0, 0)
