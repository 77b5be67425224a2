"""Numbers that follow from a model's geometry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from tests.support.fakes import TINY

VIT_B, MINI, SMALL = GEOMETRIES["vit_b"], GEOMETRIES["mini"], GEOMETRIES["small"]
SIDES = st.integers(1, 5000)


def test_a_window_of_sam_is_224_pixels_and_25_of_them_cover_the_canvas() -> None:
    assert (VIT_B.tokens, VIT_B.grid, VIT_B.windows, VIT_B.tile_px, VIT_B.mask_px) == (64, 5, 25, 224, 256)
    assert VIT_B.tile_shape == (224, 224, 3)


def test_mini_has_the_same_grid_and_is_padded_too() -> None:
    assert (MINI.tokens, MINI.grid, MINI.windows, MINI.tile_px, MINI.mask_px) == (24, 5, 25, 80, 96)
    assert MINI.grid * MINI.window > MINI.tokens


def test_small_has_the_same_grid_with_larger_windows() -> None:
    assert (SMALL.tokens, SMALL.grid, SMALL.windows, SMALL.tile_px, SMALL.mask_px) == (32, 5, 25, 112, 128)
    assert SMALL.dim // SMALL.heads == MINI.dim // MINI.heads == 64


def test_reordering_keeps_each_kind_of_block_in_its_order() -> None:
    assert VIT_B.block_order == (0, 1, 3, 4, 6, 7, 9, 10, 2, 5, 8, 11)
    for geometry in GEOMETRIES.values():
        assert sorted(geometry.block_order) == list(range(geometry.depth))
        assert geometry.block_order[-4:] == geometry.global_blocks


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((1080, 1920), (576, 1024)),
        ((480, 640), (768, 1024)),
        ((1000, 667), (1024, 683)),
        ((1001, 2048), (501, 1024)),  # 500.5: half rounds up, not to even
        ((1024, 1024), (1024, 1024)),
        ((3, 5000), (1, 1024)),
        ((1, 5000), (1, 1024)),  # never nothing
    ],
)
def test_resized(frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert VIT_B.resized(*frame) == expected


@given(SIDES, SIDES)
def test_resizing_fills_the_canvas_and_keeps_the_aspect(height: int, width: int) -> None:
    rows, cols = VIT_B.resized(height, width)
    scale = 1024 / max(height, width)
    assert max(rows, cols) == 1024
    assert abs(rows - max(height * scale, 0.5)) <= 0.5 + 1e-6
    assert abs(cols - max(width * scale, 0.5)) <= 0.5 + 1e-6


@pytest.mark.parametrize("frame", [(0, 10), (10, 0), (-1, 5)])
def test_a_frame_without_pixels_is_refused(frame: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{frame[1]} x {frame[0]} pixels"):
        VIT_B.resized(*frame)


@given(st.sampled_from([VIT_B, MINI, SMALL, TINY]), SIDES, SIDES)
def test_extents_cover_every_pixel_once(geometry: Geometry, height: int, width: int) -> None:
    rows, cols = geometry.resized(height, width)
    extents = geometry.extents(rows, cols)
    assert extents.shape == (geometry.windows, 4)
    assert extents.dtype == np.int32
    assert not extents[:, :2].any()
    assert extents[:, 2:].prod(axis=1).sum() == rows * cols
    assert extents.min() >= 0
    assert extents.max() <= geometry.tile_px


def test_extents_end_at_a_row_and_a_column_in_row_major_order() -> None:
    extents = TINY.extents(rows=6, cols=13).reshape(5, 5, 4)
    assert extents[:, 0, 2].tolist() == [4, 2, 0, 0, 0]
    assert extents[0, :, 3].tolist() == [4, 4, 4, 1, 0]


@pytest.mark.parametrize(
    ("frame", "count"), [((1080, 1920), 15), ((1920, 1080), 15), ((480, 640), 20), ((700, 700), 25)]
)
def test_windows_without_picture_are_left_out(frame: tuple[int, int], count: int) -> None:
    for geometry in (VIT_B, MINI, SMALL):
        windows = geometry.windows_with_picture(*frame)
        assert len(windows) == count
        extents = geometry.extents(*geometry.resized(*frame))
        assert [i for i in range(25) if extents[i, 2:].all()] == list(windows)


def test_geometry_survives_json() -> None:
    for geometry in GEOMETRIES.values():
        assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


def test_an_embedding_has_a_row_and_a_column_for_each_token_of_its_window() -> None:
    assert VIT_B.embedding_shape(128) == (14, 14, 128)
