"""The beginning of the stages that take tiles, against numpy: decoding, normalising, stitching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.onnx_files import write_onnx
from export.sam import PIXEL_MEAN, PIXEL_STD, Sam
from export.tiles import TilePixels, stitched
from runtime.frames.canvas import make_canvas
from stages.geometry import GEOMETRIES
from stages.tensors import Array, TensorSpec
from stages.tile_code import TileCode
from tests.support.bundles import random_weights
from tests.support.pictures import SHAPES, photo

MINI = GEOMETRIES["mini"]
CODES = [
    *map(TileCode.parse, ("rgb", "dct:6/3", "dct:15/6", "dct:64/36")),
    TileCode((16.0, 2.0, 5.5), (9.0, 3.0)),
]

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_weights(MINI).sam


def expected_pixels(code: TileCode, coded: Array, extents: Array) -> Array:
    """Decoded in numpy, normalised, zero outside the extent: fp32 [n, 3, S, S]."""
    pixels = (code.decode(coded, MINI) - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    for tile, (top, left, bottom, right) in zip(pixels, extents, strict=True):
        inside = np.zeros(tile.shape[:2], bool)
        inside[top:bottom, left:right] = True
        tile[~inside] = 0
    return np.asarray(pixels.transpose(0, 3, 1, 2), np.float32)


def some_tiles(code: TileCode) -> tuple[Array, Array]:
    """Whole tiles, tiles in which the picture ends or begins, and one without any; black and white edges."""
    canvas = make_canvas(photo("16:9"), MINI)
    canvas.pixels[:30, :50] = np.random.default_rng(0).integers(0, 2, (30, 50, 1), np.uint8) * 255
    windows = [0, 1, 14, 20, 24]
    extents = np.array(canvas.extents[windows])
    extents[1] = 3, 17, 77, 80
    return code.encode(canvas.pixels, extents, windows, MINI), extents


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_the_graph_decodes_as_numpy_does(sam: Sam, tmp_path: Path, code: TileCode) -> None:
    coded, extents = some_tiles(code)
    expected = expected_pixels(code, coded, extents)
    assert expected.std() > 0.5
    module = TilePixels(sam, MINI, code)
    inputs = torch.from_numpy(coded), torch.from_numpy(extents)
    assert np.abs(module(*inputs).numpy() - expected).max() < 1e-4
    specs = (
        TensorSpec("tile", "uint8", ("n", code.tile_bytes(MINI))),
        TensorSpec("extent", "int32", ("n", 4), (0, MINI.tile_px)),
    )
    path = tmp_path / "tiles/model.onnx"
    write_onnx(module, inputs, specs, (TensorSpec("pixels", "float32", ("n", 3, 80, 80)),), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (slice(0, 5), slice(1, 2)):
        (found,) = session.run(None, {"tile": coded[rows], "extent": extents[rows]})
        assert np.abs(found - expected[rows]).max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_stitched_are_what_segment_anything_makes_of_the_picture(sam: Sam, shape: str) -> None:
    canvas = make_canvas(photo(shape), MINI)
    code = TileCode.parse("rgb")
    coded = code.encode(canvas.pixels, canvas.extents, range(MINI.windows), MINI)
    tiles = TilePixels(sam, MINI)(torch.from_numpy(coded), torch.from_numpy(canvas.extents))
    picture = np.ascontiguousarray(canvas.pixels[: canvas.rows, : canvas.cols].transpose(2, 0, 1))
    expected = sam.preprocess(torch.from_numpy(picture)[None].float())
    assert torch.equal(stitched(tiles, MINI), expected)
