"""The code of tiles: what comes back, how long it is, and where the picture ends inside a block."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtime.frames.canvas import Canvas, make_canvas
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Pixels
from stages.tile_code import BLOCK, MACRO, OFFSET, RGB, TileCode, cut, dct_matrix, synthesis
from tests.support.fakes import TINY
from tests.support.pictures import photo

MINI, VIT_B = GEOMETRIES["mini"], GEOMETRIES["vit_b"]
EVERYTHING = TileCode.parse("dct:64/36")
NAMES = ["dct:6/3", "dct:10/3", "dct:15/6", "dct:21/6", "dct:1/1", "dct:64/36"]
# Of one window in a grid of one: pixels of a tile of S x S are the canvas.
ONE = Geometry("one", 32, 16, 2, 3, 1, 2, (1,))
FULL = np.array([[0, 0, 32, 32]], np.int32)


def coded(code: TileCode, canvas: Canvas) -> npt.NDArray[np.uint8]:
    return code.encode(canvas.pixels, canvas.extents, range(canvas.geometry.windows), canvas.geometry)


def noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def smooth(seed: int) -> Pixels:
    """A tile without fine detail, away from black and white."""
    coarse = np.random.default_rng(seed).integers(60, 196, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (32, 32), interpolation=cv2.INTER_CUBIC), np.uint8)


def there_and_back(
    code: TileCode, tile: Pixels, extent: npt.NDArray[np.int32] = FULL
) -> npt.NDArray[np.float32]:
    back: npt.NDArray[np.float32] = code.decode(code.encode(tile, extent, [0], ONE), ONE)[0]
    return back


def psnr(one: npt.NDArray[np.float32], other: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))


# Names and sizes


@pytest.mark.parametrize("name", ["rgb", *NAMES])
def test_a_name_and_json_give_the_code_back(name: str) -> None:
    code = TileCode.parse(name)
    assert code.name == name
    assert TileCode.from_json(json.loads(json.dumps(code.to_json()))) == code


@pytest.mark.parametrize(
    "name", ["", "dct", "dct:0/3", "dct:10", "dct:65/3", "dct:64/37", "dct:3/0", "jpeg", "rgb ", "dct:1/1/1"]
)
def test_a_name_of_no_code_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected rgb, or dct:L/C .* 1 to 64 and 1 to 36: dct:10/3"):
        TileCode.parse(name)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "dct:9/3"},
        {"luma_steps": []},
        {"chroma_steps": [8, 4, 0]},
        {"chroma_steps": [8, 4, float("inf")]},
        {"chroma_steps": [8, 4, float("nan")]},
        {"chroma_steps": [8, 4, 0.06]},
        {"chroma_steps": [8, 4, 257]},
        {"name": "dct:10/37", "chroma_steps": [8] * 37},
        {"name": "dct:65/3", "luma_steps": [1] * 65},
    ],
)
def test_json_of_no_code_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tile code"):
        TileCode.from_json({**TileCode.parse("dct:10/3").to_json(), **change})


@pytest.mark.parametrize(
    ("name", "size"),
    [("rgb", 150_528), ("dct:21/6", 18_816), ("dct:15/6", 14_112), ("dct:10/3", 9_016), ("dct:6/3", 5_880)],
)
def test_bytes_of_a_tile_of_vit_b(name: str, size: int) -> None:
    code = TileCode.parse(name)
    assert code.tile_bytes(VIT_B) == size
    assert coded(code, make_canvas(photo("16:9"), VIT_B)).shape == (25, size)


def test_tiles_that_are_no_whole_macroblocks_are_refused() -> None:
    assert RGB.tile_bytes(TINY) == 48
    with pytest.raises(InputError, match=r"dct:10/3 needs tiles of a multiple of 16 .* give --tiles rgb"):
        TileCode.parse("dct:10/3").tile_bytes(TINY)


def test_dc_fits_its_byte_and_few_coefficients_are_coarser() -> None:
    assert TileCode.parse("dct:10/3").luma_steps == (8, *9 * (4,))
    assert TileCode.parse("dct:6/3") == TileCode((8, *5 * (6,)), (8, 6, 6))


# There and back


def test_rgb_comes_back_to_the_byte() -> None:
    canvas = make_canvas(photo("16:9"), MINI)
    tiles = RGB.decode(coded(RGB, canvas), MINI)
    for window in range(MINI.windows):
        assert np.array_equal(tiles[window], cut(canvas.pixels, window, MINI))


@given(st.integers(0, 999), st.sampled_from(NAMES))
@settings(max_examples=30)
def test_what_is_kept_comes_back_within_half_a_step(seed: int, name: str) -> None:
    """Coding what was decoded, rounded to bytes, moves no coefficient by more than the rounding does."""
    code = TileCode.parse(name)
    sent = code.encode(smooth(seed), FULL, [0], ONE)
    back = code.decode(sent, ONE)[0]
    assume(back.min() > 0 and back.max() < 255)  # nothing was clipped
    again = code.encode(np.rint(back).astype(np.uint8), FULL, [0], ONE)
    assert np.abs(again.astype(int) - sent).max() <= 1


@given(st.integers(0, 999))
@settings(max_examples=30)
def test_all_coefficients_give_a_smooth_picture_back(seed: int) -> None:
    """All coefficients lose what their steps lose: half a step each, 2 of 255 on average."""
    tile = smooth(seed)
    error = there_and_back(EVERYTHING, tile) - tile
    assert np.sqrt(np.mean(error**2)) < 2
    assert np.abs(error).max() < 14


@pytest.mark.parametrize("grey", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("name", NAMES)
def test_plain_tiles_come_back_whole(grey: int, name: str) -> None:
    plain = np.full((32, 32, 3), grey, np.uint8)
    assert np.abs(there_and_back(TileCode.parse(name), plain) - grey).max() <= 0.51


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
def test_pure_colours_come_back(colour: tuple[int, int, int]) -> None:
    plain = np.full((32, 32, 3), colour, np.uint8)
    assert np.abs(there_and_back(TileCode.parse("dct:10/3"), plain) - plain).max() < 2.5


def test_luma_is_that_of_cv2() -> None:
    """Against another implementation: YCbCr of JPEG, and the DCT of a luma block in zigzag order."""
    tile = noise(3)
    levels = EVERYTHING.encode(tile, FULL, [0], ONE).reshape(2, 2, -1)[0, 0].astype(int)
    y = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2YCrCb)[:BLOCK, :BLOCK, 0], np.float32) - OFFSET
    dct = cv2.dct(y)
    first = [dct[0, 0] / 8, *(dct[at] / 4 for at in ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2)))]
    assert np.abs(levels[:8] - OFFSET - np.clip(first, -128, 127)).max() < 0.8  # cv2 rounds luma to a byte


def test_chroma_is_that_of_a_picture_of_half_the_size() -> None:
    code = TileCode.parse("dct:1/6")
    tile = smooth(4)
    cr = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2YCrCb), np.float32)[:MACRO, :MACRO, 1] - OFFSET
    small = cr.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    dct = cv2.dct(small)
    expected = [dct[0, 0] / 8, *(dct[at] / 6 for at in ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2)))]
    levels = code.encode(tile, FULL, [0], ONE).reshape(2, 2, -1)[0, 0, -6:].astype(int) - OFFSET
    assert np.abs(levels - expected).max() < 1.2


@pytest.mark.parametrize(
    ("name", "least"), [("dct:6/3", 21), ("dct:10/3", 23), ("dct:15/6", 25), ("dct:21/6", 27)]
)
def test_a_photograph_keeps_more_with_more_coefficients(name: str, least: float) -> None:
    canvas = make_canvas(photo("16:9"), MINI)
    code = TileCode.parse(name)
    tiles = code.decode(coded(code, canvas), MINI)
    window = 6
    found = psnr(tiles[window], cut(canvas.pixels, window, MINI))
    assert least < found < 60


def test_other_steps_are_another_code() -> None:
    """Each coefficient by its own step, so that order matters: against those of steps of one."""
    ones, own = TileCode((1.0,) * 3, (1.0,) * 3), TileCode((16.0, 2.0, 5.0), (9.0, 3.0, 7.0))
    assert own != TileCode.parse("dct:3/3")
    assert TileCode.from_json(own.to_json()) == own
    tile = np.asarray(OFFSET + (smooth(1).astype(int) - OFFSET) // 8, np.uint8)
    whole = ones.encode(tile, FULL, [0], ONE).reshape(-1, 18).astype(float) - OFFSET
    steps = np.array([*own.luma_steps * 4, *own.chroma_steps * 2])
    assert 0 < np.abs(whole).max() < 127  # nothing saturates
    sent = own.encode(tile, FULL, [0], ONE).reshape(-1, 18).astype(float) - OFFSET
    assert np.abs(sent - whole / steps).max() <= 0.5 + 0.5 / steps.min() + 1e-3
    back, expected = (
        own.decode((sent + OFFSET).astype(np.uint8).reshape(1, -1), ONE),
        sent @ (synthesis(ones) * steps[:, None]),
    )
    assert (
        np.abs(back.reshape(2, 16, 2, 16, 3).swapaxes(1, 2).reshape(4, -1) - expected - OFFSET).max() < 1e-2
    )


def test_the_bytes_of_a_tile_are_what_they_were() -> None:
    """Sites and edges of another version code and decode by these: other bytes mean another format.

    No coefficient of this tile is within 0.016 of where it would be rounded to another level.
    """
    rows, cols, channels = np.ogrid[:32, :32, :3]
    tile = ((60 + 23 * rows + 3 * cols + 40 * channels + rows * cols // 7) % 200).astype(np.uint8)
    sent = TileCode.parse("dct:10/3").encode(tile, np.array([[3, 0, 27, 21]], np.int32), [0], ONE)
    assert (
        hashlib.sha256(sent.tobytes()).hexdigest()
        == "77f82f679285747b57bef8aa4aa4fb10463101c15b78f2d29961395170faa6e5"
    )


# Lengths, saturation


@pytest.mark.parametrize("name", ["rgb", *NAMES])
def test_very_different_pictures_are_of_equal_length(name: str) -> None:
    code = TileCode.parse(name)
    pictures = [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8), noise(0), smooth(0)]
    lengths = {code.encode(picture, FULL, [0], ONE).nbytes for picture in pictures}
    assert lengths == {code.tile_bytes(ONE)}


def test_a_hard_edge_saturates_and_is_counted() -> None:
    code = TileCode.parse("dct:10/3")
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 4:] = 255
    share = code.saturated(edge, FULL, [0], ONE)
    assert 0 < share < 0.1
    assert code.saturated(smooth(0), FULL, [0], ONE) == 0
    assert RGB.saturated(edge, FULL, [0], ONE) == 0
    assert {0, 255} & set(code.encode(edge, FULL, [0], ONE).ravel().tolist())


# Where the picture ends


@given(
    st.integers(0, 31),
    st.integers(0, 31),
    st.integers(1, 32),
    st.integers(1, 32),
    st.sampled_from(["dct:10/3", "dct:64/36"]),
)
def test_the_border_is_repeated_to_the_next_line_on_every_side_and_nothing_beyond_it_is_coded(
    top: int, left: int, bottom: int, right: int, name: str
) -> None:
    code = TileCode.parse(name)
    extent = np.array([[top, left, bottom, right]], np.int32)
    sent = code.encode(noise(1), extent, [0], ONE).reshape(2, 2, -1)
    if bottom <= top or right <= left:
        assert (sent == OFFSET).all()
        return
    filled = np.pad(
        noise(1)[top:bottom, left:right], ((top, 32 - bottom), (left, 32 - right), (0, 0)), mode="edge"
    )
    expected = code.encode(filled, FULL, [0], ONE).reshape(2, 2, -1)
    for row, col in np.ndindex(2, 2):
        has_picture = (
            top < 16 * (row + 1) and bottom > 16 * row and left < 16 * (col + 1) and right > 16 * col
        )
        assert np.array_equal(
            sent[row, col], expected[row, col] if has_picture else np.full_like(sent[0, 0], OFFSET)
        )


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=40)
def test_frames_of_every_size_hide_what_lies_beyond_the_picture(height: int, width: int) -> None:
    """Nor do windows depend on each other: one alone is coded as among all."""
    code = TileCode.parse("dct:10/3")
    canvas = make_canvas(np.resize(noise(2), (height, width, 3)), MINI)
    sent = coded(code, canvas)
    beyond = canvas.pixels.copy()
    beyond[canvas.rows :], beyond[:, canvas.cols :] = 200, 99
    assert np.array_equal(sent, code.encode(beyond, canvas.extents, range(MINI.windows), MINI))
    for window in (canvas.windows[0], canvas.windows[-1]):
        alone = code.encode(canvas.pixels, canvas.extents[[window]], [window], MINI)
        assert np.array_equal(alone[0], sent[window])


def test_repeated_border_pixels_ring_less_than_black() -> None:
    """What repeating is for: the error of the picture's own pixels in its last blocks."""
    code, bright = TileCode.parse("dct:10/3"), np.full((32, 32, 3), 220, np.uint8)
    bright[13:] = 0
    end = np.array([[0, 0, 13, 32]], np.int32)
    repeated = np.abs(there_and_back(code, bright, end)[:13] - 220).max()
    black = np.abs(there_and_back(code, bright)[:13] - 220).max()
    assert repeated < 1 < 15 < black


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_dct_is_a_rotation_that_spreads(size: int) -> None:
    matrix = dct_matrix(size)
    assert np.allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    assert np.abs(matrix).max() <= (2 / size) ** 0.5 + 1e-12
