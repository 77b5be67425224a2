"""What an export says of a code: the error of decoded pixels, and saturation."""

from __future__ import annotations

import numpy as np

from export.checks.coding import measure_coding
from export.checks.pictures import made_picture, resized
from stages.geometry import GEOMETRIES
from stages.tile_code import TileCode
from tests.support.pictures import photo

MINI = GEOMETRIES["mini"]


def test_more_coefficients_are_nearer_to_the_picture() -> None:
    pictures = [resized(photo("16:9"), MINI), made_picture(MINI)]
    found = [
        measure_coding(TileCode.parse(f"dct:{kept}"), MINI, pictures) for kept in ("6/3", "15/6", "64/36")
    ]
    assert 15 < found[0].psnr_db < found[1].psnr_db < found[2].psnr_db < 60
    assert measure_coding(TileCode.parse("rgb"), MINI, pictures).parity == {
        "tiles_psnr_db": 10 * np.log10(255**2 / 1e-6),
        "tiles_saturated": 0.0,
    }


def test_what_lies_outside_the_picture_does_not_count() -> None:
    grey = np.full((50, 70, 3), 128, np.uint8)
    found = measure_coding(TileCode.parse("dct:1/1"), MINI, [grey])
    assert found.psnr_db > 70
    assert found.saturated == 0


def test_hard_edges_saturate() -> None:
    stripes = np.zeros((160, 160, 3), np.uint8)
    stripes[:, 4::8] = stripes[:, 5::8] = stripes[:, 6::8] = stripes[:, 7::8] = 255
    found = measure_coding(TileCode.parse("dct:10/3"), MINI, [stripes])
    assert 0.01 < found.parity["tiles_saturated"] < 0.2
