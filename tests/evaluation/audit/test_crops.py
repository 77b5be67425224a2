"""Held windows on sheets for a detector: where they come from is known, and nothing else is on them."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.audit.crops import GAP_PX, LOOK_PX, SHEET_PX, crops_of, look_at, overlap, sheets_of
from evaluation.audit.views import View, view_of
from runtime.frames.canvas import Canvas, make_canvas
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import RGB
from tests.support.pictures import photo

VIT_B, MINI = GEOMETRIES["vit_b"], GEOMETRIES["mini"]


def held(geometry: Geometry, *windows: int) -> tuple[Canvas, View]:
    """What somebody holds of a photograph who has these windows."""
    canvas = make_canvas(photo("16:9"), geometry)
    coded = RGB.encode(canvas.pixels, canvas.extents[list(windows)], windows, geometry)
    return canvas, view_of(geometry, RGB, canvas, dict(zip(windows, coded, strict=True)))


def test_windows_that_touch_are_one_crop_and_lie_where_they_were() -> None:
    canvas, view = held(VIT_B, 0, 6, 3)
    found = sorted((crop.left, crop.top, crop.pixels.shape[:2]) for crop in crops_of([view], VIT_B))
    assert found == [(0, 0, (448, 448)), (672, 0, (224, 224))]
    for crop in crops_of([view], VIT_B):
        rows, cols = crop.pixels.shape[:2]
        there = np.s_[crop.top : crop.top + rows, crop.left : crop.left + cols]
        known = view.known[there]
        np.testing.assert_array_equal(crop.pixels[known], canvas.pixels[there][known])
        assert len(np.unique(crop.pixels[~known].reshape(-1, 3), axis=0)) <= 1  # one colour


def test_small_canvases_are_enlarged() -> None:
    _, view = held(MINI, 4)
    (crop,) = crops_of([view], MINI)
    scale = LOOK_PX / MINI.image_size
    assert (crop.left, crop.top) == (round(4 * 80 * scale), 0)
    assert crop.pixels.shape[:2] == (round(80 * scale), round(64 * scale))
    assert look_at(photo("portrait")).pixels.shape[:2] == (1024, 576)


@pytest.mark.parametrize("windows", [(0,), tuple(range(15)), (0, 2, 4, 10, 12, 14)])
def test_a_box_on_a_sheet_is_one_of_the_picture(windows: tuple[int, ...]) -> None:
    _, view = held(VIT_B, *windows)
    crops = crops_of([view, view], VIT_B)
    sheets = list(sheets_of(crops))
    assert sum(len(sheet.placed) for sheet in sheets) == len(crops)
    for sheet in sheets:
        assert sheet.pixels.shape[1] == SHEET_PX >= len(sheet.pixels)
        assert len(sheet.pixels) % 32 == 0
        for crop, left, top in sheet.placed:
            rows, cols = crop.pixels.shape[:2]
            np.testing.assert_array_equal(sheet.pixels[top : top + rows, left : left + cols], crop.pixels)
            found = sheet.found((left + 10, top + 20, left + 30, top + 50))
            assert found is not None
            assert found.crop is crop
            assert found.in_crop == (10, 20, 30, 50)
            assert found.box == (crop.left + 10, crop.top + 20, crop.left + 30, crop.top + 50)
        assert sheet.found((0, 0, GAP_PX / 2, GAP_PX / 2)) is None


def test_overlap() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
