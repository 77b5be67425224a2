"""The picture of what a site sees, and the sizes on the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.what_travels import OUTLINE, SIDE, drawn, outlined, seen_at
from export.checks.pictures import made_picture, resized
from stages.geometry import GEOMETRIES
from stages.tile_code import TileCode
from tests.support.bundles import TINY, random_weights

PAGE = Path(__file__).parents[2] / "docs/what-travels.md"
WINDOWS = 15  # of a 16:9 frame
NUMBER = r"\| ([0-9,]+) "


def rows(first: str) -> Iterator[tuple[re.Match[str], list[int]]]:
    """Rows of the page's tables that begin with a cell like `first`, and the numbers after it."""
    for line in PAGE.read_text("utf-8").splitlines():
        if match := re.match(rf"\| {first} (?=\|)", line):
            yield match, [int(number.replace(",", "")) for number in re.findall(NUMBER, line[match.end() :])]


def test_the_page_gives_the_sizes_of_tiles() -> None:
    found = {match[1]: numbers for match, numbers in rows("`(rgb|dct:[0-9/]+)`")}
    assert len(found) == 5
    for name, (macroblock, *sizes) in found.items():
        mini, vit_b = (TileCode.parse(name).tile_bytes(GEOMETRIES[model]) for model in ("mini", "vit_b"))
        assert sizes == [mini, WINDOWS * mini, vit_b, WINDOWS * vit_b]
        assert macroblock * 14**2 == vit_b


def test_the_page_gives_the_sizes_of_embeddings() -> None:
    lines = re.findall(
        r"^\| \d+ of \d+, (?:fp16|int8) .*$|^\| \d+, (?:fp16|int8) .*$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert len(lines) == 5
    for line in lines:
        halves = re.findall(r"(\d+)(?: of \d+)?, (fp16|int8) \| ([0-9,]+) \| ([0-9,]+)", line)
        assert len(halves) == 2
        for model, (components, wire, *sizes) in zip(("mini", "vit_b"), halves, strict=True):
            token = 2 * int(components) if wire == "fp16" else int(components) + 2
            window = GEOMETRIES[model].window ** 2 * token
            assert [int(size.replace(",", "")) for size in sizes] == [window, WINDOWS * window]


def test_a_tile_as_a_site_sees_it() -> None:
    picture = made_picture(TINY)
    box = [20.0, 10.0, 60.0, 50.0]
    plain, coded = seen_at(random_weights(TINY), picture, box, ["rgb", "dct:6/3"])
    canvas, side = resized(picture, TINY), TINY.tile_px
    corners = [(row, col) for row in range(0, 60 - side, side) for col in range(0, 80 - side, side)]
    assert any(np.array_equal(plain.tile, canvas[y : y + side, x : x + side]) for y, x in corners)
    assert plain.iou == 1
    assert 0 < np.abs(coded.tile.astype(int) - plain.tile).mean() < 40
    assert (plain.tile_bytes, coded.tile_bytes) == (3 * side**2, 4 * 30)
    assert drawn([plain, coded]).shape[1] > 2 * SIDE


def test_an_outline_is_where_a_mask_ends() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:6, 3:8] = True
    found = (outlined(np.zeros((8, 8, 3), np.uint8), mask) == OUTLINE).all(axis=-1)
    expected = mask.copy()
    expected[3:5, 4:8] = False  # up to the tile's own border, where it goes on
    assert np.array_equal(found, expected)
