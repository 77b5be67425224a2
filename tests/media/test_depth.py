"""Pictures of more than 8 bits: what becomes black and white, and that strips change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, TiffImagePlugin

from media.pictures import read_picture, read_scaled
from tests.support.picture_files import GREY, NOISE, deep, differs, grey_alpha_png, set_tag


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", GREY.astype(np.uint16) * 257),
        ("16.tif", GREY.astype(np.uint16) * 257),
        ("16.pgm", GREY.astype(np.uint16) * 257),
        ("8 in 16.png", GREY.astype(np.uint16)),
        ("10 in 16.png", GREY.astype(np.uint16) * 4),
        ("12 in 16.tif", GREY.astype(np.uint16) * 16),
        ("14 in 16.png", GREY.astype(np.uint16) * 64),
        ("float to 1.tif", GREY / np.float32(255)),
        ("float to 255.tif", GREY.astype(np.float32)),
        ("32.tif", GREY.astype(np.int32) << 23),
        ("negative.tif", GREY.astype(np.int32) * 100 - 9000),
        ("float negative.tif", GREY.astype(np.float32) - 300),
        ("thermal.png", GREY.astype(np.uint16) * 13 + 27000),
        ("depth.tif", GREY.astype(np.float32) / 40 + 0.5),
        ("16 in colour.png", np.repeat(GREY[..., None], 3, 2).astype(np.uint16) * 257),
        ("12 in colour.png", np.repeat(GREY[..., None], 3, 2).astype(np.uint16) * 16),
        ("12 in colour.tif", np.repeat(GREY[..., None], 3, 2).astype(np.uint16) * 16),
        ("12 with alpha.png", np.repeat(GREY[..., None], 4, 2).astype(np.uint16) * 16),
    ],
)
def test_more_than_8_bits_look_as_8_do(tmp_path: Path, name: str, values: npt.NDArray[Any]) -> None:
    assert differs(deep(tmp_path / name, values), GREY) <= 1


@pytest.mark.parametrize("factor", [256, 257])
def test_a_dull_picture_of_8_bits_stored_as_16_stays_dull(tmp_path: Path, factor: int) -> None:
    dull = GREY // 8 + 60
    assert differs(deep(tmp_path / "a.png", dull.astype(np.uint16) * np.uint16(factor)), dull) <= 1


def test_colours_of_12_bits_keep_their_order(tmp_path: Path) -> None:
    colours = NOISE.copy()
    colours[0, 0] = 255
    deep(tmp_path / "a.png", colours[..., ::-1].astype(np.uint16) * 16)
    assert differs(tmp_path / "a.png", colours) <= 1


@pytest.mark.parametrize(
    ("bits", "start", "step"), [(10, 150, 3), (12, 600, 11), (14, 2500, 45), (16, 9000, 180)]
)
def test_what_fills_most_of_a_cameras_range_is_not_stretched(
    tmp_path: Path, bits: int, start: int, step: int
) -> None:
    values = GREY.astype(np.uint16) * step + start
    expected = values / (2**bits - 1) * 255
    assert expected.min() > 30
    assert differs(deep(tmp_path / "a.png", values.astype(np.uint16)), np.round(expected).astype(int)) <= 1


def test_a_few_pixels_that_are_broken_do_not_set_the_scale(tmp_path: Path) -> None:
    values = np.tile(np.arange(200, dtype=np.uint16) + 7000, (200, 1))
    values[0, 0], values[0, 1] = 0, 16000
    found = read_picture(deep(tmp_path / "a.png", values))[1]
    assert found[0].max() <= 1
    assert found[-1].min() >= 254


def test_what_is_no_number_is_black_and_infinity_is_an_end(tmp_path: Path) -> None:
    values = GREY / np.float32(255)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = read_picture(deep(tmp_path / "a.tif", values))
    assert found[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(found[1:, :, 0].astype(int) - GREY[1:]).max() <= 1


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.5, -3.0, 1e30])
def test_a_flat_float_picture_is_one_shade(tmp_path: Path, value: float) -> None:
    found = read_picture(deep(tmp_path / "a.tif", np.full((4, 5), value, np.float32)))
    assert found.shape == (4, 5, 3)
    assert np.ptp(found) == 0


def test_32_bits_without_a_sign_are_taken_so(tmp_path: Path) -> None:
    Image.fromarray((GREY.astype(np.uint32) << 24).view(np.int32)).save(tmp_path / "a.tif")
    set_tag(tmp_path / "a.tif", TiffImagePlugin.SAMPLEFORMAT, 1)
    assert differs(tmp_path / "a.tif", GREY) <= 1


@pytest.mark.parametrize("values", [GREY.astype(np.uint16) * 257, GREY / np.float32(255)])
def test_zero_is_white_where_a_tiff_says_so(tmp_path: Path, values: npt.NDArray[Any]) -> None:
    deep(tmp_path / "a.tif", values)
    set_tag(tmp_path / "a.tif", TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    assert differs(tmp_path / "a.tif", 255 - GREY) <= 1


def test_grey_with_alpha_of_12_bits_looks_as_8_bits_do(tmp_path: Path) -> None:
    values = np.stack([GREY.astype(np.uint16) * 16, np.full(GREY.shape, 65535, np.uint16)], -1)
    path = grey_alpha_png(tmp_path / "a.png", values)
    assert differs(path, GREY) <= 1
    assert read_scaled(path)[1] == "0 to 4095"


def test_colours_of_a_narrow_range_are_scaled_as_grey_is(tmp_path: Path) -> None:
    values = np.repeat(GREY[..., None], 3, 2).astype(np.uint16) + 29000
    path = deep(tmp_path / "a.png", values)
    assert differs(path, GREY) <= 1
    assert read_scaled(path)[1] == "29000 to 29255"


def with_no_data(values: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    """The upper half without data."""
    return np.concatenate([np.full_like(values, value), values])


@pytest.mark.parametrize(
    ("name", "values", "no_data"),
    [
        ("a.png", GREY.astype(np.uint16) * 8 + 600, 65535),
        ("a.tif", GREY.astype(np.uint16) * 2 + 29000, 0),
        ("a.tif", GREY.astype(np.int32) * 20 - 600, -32768),
        ("a.tif", GREY.astype(np.int32) * 20 + 9, -(2**31)),
        ("a.tif", GREY.astype(np.float32) * 3 + 1000, -9999),
        ("a.tif", GREY.astype(np.float32) * 3, -3.4e38),
        ("a.tif", GREY.astype(np.float32) - 100, 3.4028234663852886e38),
    ],
)
def test_what_stands_for_no_data_is_black_and_takes_no_part_of_the_range(
    tmp_path: Path, name: str, values: npt.NDArray[Any], no_data: float
) -> None:
    path = deep(tmp_path / name, with_no_data(values, no_data))
    assert differs(path, np.concatenate([np.zeros_like(GREY), GREY])) <= 1
    assert str(read_scaled(path)[1]).endswith(f" without {no_data:g}")


def test_a_tag_of_gdal_says_what_stands_for_no_data(tmp_path: Path) -> None:
    """The value lies among the others."""
    values = with_no_data(GREY.astype(np.float32) + 500, 777)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113] = "777 "
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=tags)
    assert differs(tmp_path / "a.tif", np.concatenate([np.zeros_like(GREY), GREY])) <= 1


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 100, 65535, 65535]], np.uint16),  # labels
        np.concatenate([GREY.astype(np.uint16) * 128, np.full((9, 256), 65535, np.uint16)]),  # a bright sky
    ],
)
def test_ends_of_the_range_that_belong_to_the_picture_stay(tmp_path: Path, values: npt.NDArray[Any]) -> None:
    path = deep(tmp_path / "a.png", values)
    assert differs(path, np.round(values / 257)) <= 1
    assert read_scaled(path)[1] is None


@pytest.mark.parametrize("values", [GREY, GREY.astype(np.uint16) * 257, GREY / np.float32(255)])
def test_a_range_that_anybody_expects_is_not_told(tmp_path: Path, values: npt.NDArray[Any]) -> None:
    assert read_scaled(deep(tmp_path / "a.tif", values))[1] is None
