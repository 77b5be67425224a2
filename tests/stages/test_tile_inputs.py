"""What a bundle of either format has sent: pixels and extents as its records ask for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.frames.canvas import Canvas, make_canvas
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.tensors import TensorSpec, check_arrays
from stages.tile_code import TileCode, cut
from stages.tile_inputs import tile_on_canvas, whole_inputs, window_inputs
from tests.support.fakes import tiny_bundle

MINI = GEOMETRIES["mini"]


def canvas_of(height: int, width: int) -> Canvas:
    rng = np.random.default_rng(height * width)
    return make_canvas(rng.integers(0, 256, (height, width, 3), np.uint8), MINI)


@given(st.integers(1, 900), st.integers(1, 900))
@settings(max_examples=30)
def test_format_1_has_pixels_and_rows_and_columns(height: int, width: int) -> None:
    bundle, canvas = replace(tiny_bundle(), geometry=MINI), canvas_of(height, width)
    inputs = window_inputs(bundle, canvas.pixels, canvas.extents, canvas.windows)
    specs = (
        TensorSpec("tile", "uint8", ("n", 80, 80, 3)),
        TensorSpec("index", "int32", ("n", 1), (0, 24)),
        TensorSpec("extent", "int32", ("n", 2), (0, 80)),
    )
    check_arrays(specs, inputs)
    for tile, (window,), (rows, cols) in zip(*inputs.values(), strict=True):
        assert np.array_equal(tile, cut(canvas.pixels, window, MINI))
        assert (rows, cols) == (canvas.extents[window, 2], canvas.extents[window, 3])
    whole = whole_inputs(bundle, canvas.pixels, canvas.extents)
    assert whole["extent"].tolist() == [[canvas.rows, canvas.cols]]
    assert np.array_equal(whole["canvas"][0], canvas.pixels[:384, :384])


@pytest.mark.parametrize("name", ["rgb", "dct:10/3"])
def test_format_2_has_coded_bytes_and_four_sides(name: str) -> None:
    code, canvas = TileCode.parse(name), canvas_of(360, 640)
    bundle = replace(tiny_bundle(), geometry=MINI, format=2, tiles=code)
    whole = whole_inputs(bundle, canvas.pixels, canvas.extents)
    check_arrays(
        (
            TensorSpec("tile", "uint8", (25, code.tile_bytes(MINI))),
            TensorSpec("extent", "int32", (25, 4), (0, 80)),
        ),
        whole,
    )
    windows = [3, 14, 7]
    inputs = window_inputs(bundle, canvas.pixels, canvas.extents, windows)
    assert inputs["index"].tolist() == [[3], [14], [7]]
    assert np.array_equal(inputs["tile"], whole["tile"][windows])
    assert inputs["extent"].tolist() == canvas.extents[windows].tolist()


def test_the_shipped_bundle_takes_what_is_made_for_it() -> None:
    bundle, canvas = Bundle.load(shipped_bundle()), canvas_of(480, 640)
    inputs = window_inputs(bundle, canvas.pixels, canvas.extents, canvas.windows)
    check_arrays(bundle.stage("window").inputs, inputs)


def test_a_picture_that_begins_inside_a_tile_is_not_put_into_format_1() -> None:
    canvas = canvas_of(480, 640)
    extents = canvas.extents.copy()
    extents[3, 1] = 5
    bundle = replace(tiny_bundle(), geometry=MINI)
    with pytest.raises(ValueError, match="begins at the top left alone"):
        window_inputs(bundle, canvas.pixels, extents, [3])
    with pytest.raises(ValueError, match="begins at the top left alone"):
        whole_inputs(bundle, canvas.pixels, extents)


def test_no_windows_are_no_rows() -> None:
    bundle, canvas = replace(tiny_bundle(), geometry=MINI, format=2), canvas_of(480, 640)
    inputs = window_inputs(bundle, canvas.pixels, canvas.extents, [])
    assert {name: len(array) for name, array in inputs.items()} == {"tile": 0, "index": 0, "extent": 0}


def test_a_tile_is_put_where_its_window_is() -> None:
    tile = np.full((80, 80, 3), 9, np.uint8)
    canvas = tile_on_canvas(tile, 13, MINI)
    assert np.array_equal(cut(canvas, 13, MINI), tile)
    assert canvas.sum() == tile.sum()
