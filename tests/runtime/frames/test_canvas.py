"""The canvas against segment_anything's own transforms, for frames of any size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.frames.canvas import Canvas, holds_square, make_canvas
from stages.geometry import GEOMETRIES, Geometry
from stages.strips import row_strips
from tests.support.fakes import tiny_bundle

MINI = GEOMETRIES["mini"]
sides = st.one_of(st.integers(1, 1500), st.sampled_from([1, 2, 223, 224, 225, 384, 1023, 1024, 1025]))
geometries = st.sampled_from([GEOMETRIES["vit_b"], MINI])


@st.composite
def frames(draw: st.DrawFn) -> npt.NDArray[np.uint8]:
    """Noise of any size; rows repeat so that large frames are quick to make."""
    height, width = draw(sides), draw(sides)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows = rng.integers(0, 256, (min(height, 64), width, 3), np.uint8)
    return np.ascontiguousarray(np.resize(rows, (height, width, 3)))


def sams(geometry: Geometry) -> Any:
    """segment_anything's ResizeLongestSide."""
    from export.sam import SamPredictor

    return SamPredictor(sized(geometry)).transform


def sized(geometry: Geometry) -> Any:
    """As much of a Sam as its transforms look at."""
    return SimpleNamespace(image_encoder=SimpleNamespace(img_size=geometry.image_size))


@given(frames(), geometries)
@settings(max_examples=30)
def test_the_canvas_is_segment_anythings_picture_and_zeros(
    frame: npt.NDArray[np.uint8], geometry: Geometry
) -> None:
    transform = sams(geometry)
    canvas = make_canvas(frame, geometry)
    expected = np.zeros_like(canvas.pixels)
    shape = transform.get_preprocess_shape(*frame.shape[:2], geometry.image_size)
    if min(shape) > 0:  # segment_anything fails on frames that shrink to nothing; here one row is left
        picture = transform.apply_image(frame)
        assert picture.shape[:2] == (canvas.rows, canvas.cols)
        expected[: canvas.rows, : canvas.cols] = picture
        assert np.array_equal(canvas.pixels, expected)
    assert min(canvas.rows, canvas.cols) >= 1
    assert not canvas.pixels[canvas.rows :].any()
    assert not canvas.pixels[:, canvas.cols :].any()


@given(sides, sides, geometries, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_points_move_as_segment_anything_moves_them(
    height: int, width: int, geometry: Geometry, points: list[tuple[float, float]]
) -> None:
    canvas = blank(height, width, geometry)
    if min(sams(geometry).get_preprocess_shape(height, width, geometry.image_size)) < 1:
        return
    xy = np.array(points) * (width, height)
    expected = sams(geometry).apply_coords(xy, (height, width)).astype(np.float32)
    assert np.array_equal(canvas.to_canvas_xy(xy), expected)


@given(sides, sides, st.integers(0, 99))
@settings(max_examples=30)
def test_masks_come_back_as_segment_anything_brings_them(height: int, width: int, seed: int) -> None:
    canvas = blank(height, width, MINI)
    logits = smooth_logits(seed)
    expected = sams_postprocess(logits, canvas)
    got = canvas.to_frame_mask(logits)
    assert got.shape == (height, width)
    assert np.array_equal(got[np.abs(expected) > 1e-4], (expected > 0)[np.abs(expected) > 1e-4])


def test_a_mask_of_a_large_frame_is_computed_in_strips_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here a frame of more than 50,000 pixels is large."""
    monkeypatch.setattr("runtime.frames.canvas.row_strips", partial(row_strips, pixels=50_000))
    canvas = blank(577, 409, MINI)
    assert len(list(row_strips(canvas.height, canvas.width, 50_000))) == 5
    logits = smooth_logits(3)
    square = cv2.resize(logits, (MINI.image_size, MINI.image_size))[: canvas.rows, : canvas.cols]
    enlarged = cv2.resize(square, (canvas.width, canvas.height))
    sure = np.abs(enlarged) > 1e-4
    got = canvas.to_frame_mask(logits)
    assert got.dtype == np.bool_
    assert np.array_equal(got[sure], enlarged[sure] > 0)


def blank(height: int, width: int, geometry: Geometry) -> Canvas:
    return make_canvas(np.zeros((height, width, 3), np.uint8), geometry)


def smooth_logits(seed: int) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=(MINI.mask_px, MINI.mask_px)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.float32) * 40


def sams_postprocess(logits: npt.NDArray[np.float32], canvas: Canvas) -> npt.NDArray[np.float32]:
    import torch

    from export.sam import Sam

    masks = torch.from_numpy(logits)[None, None]
    sizes = (canvas.rows, canvas.cols), (canvas.height, canvas.width)
    out: npt.NDArray[np.float32] = Sam.postprocess_masks(sized(MINI), masks, *sizes)[0, 0].numpy()
    return out


@given(frames(), geometries)
@settings(max_examples=40)
def test_tiles_put_together_are_the_canvas(frame: npt.NDArray[np.uint8], geometry: Geometry) -> None:
    canvas = make_canvas(frame, geometry)
    bundle = replace(tiny_bundle(), geometry=geometry, format=2)
    side = geometry.tile_px
    picture = np.zeros(canvas.pixels.shape[:2], bool)
    picture[: canvas.rows, : canvas.cols] = True
    for window in range(geometry.windows):
        inputs = canvas.window_inputs([window], bundle)
        row, col = divmod(window, geometry.grid)
        there = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
        assert np.array_equal(inputs["tile"].reshape(side, side, 3), canvas.pixels[there])
        assert inputs["index"].tolist() == [[window]]
        top, left, bottom, right = inputs["extent"][0]
        expected = np.zeros((side, side), bool)
        expected[top:bottom, left:right] = True
        assert np.array_equal(expected, picture[there])
        assert (window in canvas.windows) == bool(picture[there].any())


@pytest.mark.parametrize("name", ["mini", "vit_b"])
@pytest.mark.parametrize(
    ("height", "width", "windows"), [(1080, 1920, 15), (1920, 1080, 15), (1000, 1000, 25), (1, 1500, 5)]
)
def test_windows_without_picture_are_left_out(name: str, height: int, width: int, windows: int) -> None:
    assert len(blank(height, width, GEOMETRIES[name]).windows) == windows


def test_a_whole_stage_of_format_1_gets_the_canvas_without_the_overhang() -> None:
    canvas = make_canvas(np.full((100, 60, 3), 7, np.uint8), MINI)
    inputs = canvas.whole_inputs(replace(tiny_bundle(), geometry=MINI))
    assert inputs["canvas"].shape == (1, 384, 384, 3)
    assert inputs["extent"].tolist() == [[384, 230]]
    assert (inputs["canvas"][0, :384, :230] == 7).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 1200), st.integers(1, 1200), geometries, st.integers(1, 6), st.integers(0, 9999))
def test_a_mask_that_has_a_pixel_of_the_frame_is_told_from_one_that_has_none(
    height: int, width: int, geometry: Geometry, side: int, seed: int
) -> None:
    """A square somewhere, in the padding too, too faint or small to last until the frame, or not."""
    rng = np.random.default_rng(seed)
    canvas = made_for(geometry, height, width)
    logits = np.full((geometry.mask_px, geometry.mask_px), -rng.uniform(0.1, 9), np.float32)
    row, col = rng.integers(0, geometry.mask_px - side, 2)
    logits[row : row + side, col : col + side] = rng.uniform(0.01, 5)
    assert canvas.shows(logits) == canvas.to_frame_mask(logits).any()


def made_for(geometry: Geometry, height: int, width: int) -> Canvas:
    """A canvas without its pixels."""
    rows, cols = geometry.resized(height, width)
    return Canvas(geometry, np.zeros((0, 0, 3), np.uint8), rows, cols, height, width)


def test_an_empty_mask_is_not_enlarged_to_see_that_it_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def enlarge(canvas: Canvas, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        raise AssertionError

    monkeypatch.setattr(Canvas, "to_frame_mask", enlarge)
    assert not made_for(MINI, 360, 640).shows(np.zeros((96, 96), np.float32))


def test_a_mask_in_the_padding_alone_shows_nothing() -> None:
    canvas = made_for(MINI, 360, 640)
    logits = np.full((96, 96), 5, np.float32)
    assert canvas.shows(logits)
    logits[:56] = -5
    assert not canvas.shows(logits)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 6), (6, 6), (3, 4)])
def test_a_square_is_found_and_is_not_continued_beyond_the_edge(row: int, col: int) -> None:
    cells = np.zeros((10, 10), bool)
    cells[row : row + 4, col : col + 4] = True
    assert holds_square(cells, 4)
    assert not holds_square(cells, 5)
    assert not holds_square(cells[:3], 4)
