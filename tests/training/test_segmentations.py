"""Masks of COCO segmentations are those of pycocotools, and nothing odd ever reaches it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from training.segmentations import BadSegmentation, Mask, read_segmentation

FRAME = (30, 40)  # height, width
PIXELS = 30 * 40
TRIANGLE = [5, 5, 20, 5, 20, 25]


def refused(value: Any) -> tuple[str, str]:
    with pytest.raises(BadSegmentation) as told:
        read_segmentation(value, FRAME)
    return told.value.reason, told.value.found


def read(value: Any) -> Mask | BadSegmentation:
    """Its mask, or why there is none."""
    try:
        return read_segmentation(value, FRAME).mask(FRAME)
    except BadSegmentation as exc:
        return exc


def by_pycocotools(parts: Sequence[Sequence[float]]) -> Mask:
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(parts, *FRAME))), bool)


@given(st.lists(st.lists(st.floats(-35, 65), min_size=6, max_size=20), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_polygons_are_filled_as_pycocotools_fills_them(parts: list[list[float]]) -> None:
    even = [part[: len(part) // 2 * 2] for part in parts]
    mask = read(even)
    if isinstance(mask, BadSegmentation):
        shares = any(all(0 <= number <= 1 for number in part) for part in even)
        share = ("with shares of the picture as coordinates",) if shares else ()
        assert mask.reason in ("without an area", "outside of the picture", *share)
        return
    theirs = by_pycocotools(even)
    if not (mask == theirs).all():  # flat parts, which have no area, are not filled
        assert (mask <= theirs).all()
        assert any(min(np.ptp(part[::2]), np.ptp(part[1::2])) == 0 or len(part) == 6 for part in even)


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_run_lengths_are_decoded_as_pycocotools_decodes_them(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(FRAME) < share
    mask[3, 4] = True
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed = {"size": list(FRAME), "counts": rle["counts"].decode()}
    assert (read_segmentation(compressed, FRAME).mask(FRAME) == mask).all()
    columns = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(columns)) + 1
    runs = np.diff([0, *changes, PIXELS]).tolist()
    plain = {"size": list(FRAME), "counts": [0, *runs] if columns[0] else runs}
    assert (read_segmentation(plain, FRAME).mask(FRAME) == mask).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=12,
)
NUMBERS = st.lists(st.integers(-(10**10), 10**10) | st.floats() | st.integers(-50, 80), max_size=12)
RUNS = NUMBERS | st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30) | JSON
RLE = st.fixed_dictionaries({"size": st.just([30, 40]) | JSON, "counts": RUNS})


@given(JSON | st.lists(NUMBERS, max_size=3) | RLE)
@settings(max_examples=150, deadline=None)
def test_whatever_it_is_it_is_a_mask_or_refused(value: Any) -> None:
    mask = read(value)
    if isinstance(mask, BadSegmentation):
        assert mask.reason
        assert len(mask.found) < 250
        return
    assert mask.shape == FRAME
    assert mask.dtype == bool


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "without a mask"),
        ([], "without a mask"),
        ({}, "without a mask"),
        ([[]], "with less than three points"),
        ([[5, 5, 20, 25]], "with less than three points"),
        (TRIANGLE, "with a polygon that is not in a list"),
        ([[[5, 5], [20, 5], [20, 25]]], "with coordinates that are not numbers"),
        ([["5", 5, 20, 5, 20, 25]], "with coordinates that are not numbers"),
        ([[True, 5, 20, 5, 20, 25]], "with coordinates that are not numbers"),
        ([[*TRIANGLE, 7]], "with an odd number of coordinates"),
        ([[math.nan, *TRIANGLE[1:]]], "with a coordinate that is not finite"),
        ([[math.inf, *TRIANGLE[1:]]], "with a coordinate that is not finite"),
        ([[2e8, *TRIANGLE[1:]]], "with a coordinate far outside of the picture"),
        ([[-1e308, *TRIANGLE[1:]]], "with a coordinate far outside of the picture"),
        ([[10**400, *TRIANGLE[1:]]], "with a coordinate far outside of the picture"),
        ([TRIANGLE, [2e8, *TRIANGLE[1:]]], "with a coordinate far outside of the picture"),
        ([[0, 0, 40, 30] * 100_000], "with an outline that is too long"),
        ([[5, 5, 9, 5, 20, 5]], "without an area"),
        ([[5, 5, 6, 6, 9, 9]], "without an area"),
        ([[50, 5, 60, 5, 60, 25]], "outside of the picture"),
        ([[0.3, 0.2, 0.7, 0.2, 0.7, 0.8, 0.3, 0.8]], "with shares of the picture as coordinates"),
        ([[0, 0, 1.0, 0, 1, 0.5], [0.5, 0.5, 1, 1, 0.5, 1]], "with shares of the picture as coordinates"),
        ("PXYZ", "with a segmentation that is neither polygons nor RLE"),
        ({"counts": [PIXELS]}, "with RLE that has no size"),
        ({"size": [30.0, 40.0], "counts": [PIXELS]}, "with RLE that has no size"),
        ({"size": [40, 30], "counts": [7, PIXELS - 7]}, "with RLE of another size than the picture"),
        ({"size": [10**9, 10**9], "counts": [7, 10**18 - 7]}, "with RLE of another size than the picture"),
        ({"size": [30, 40], "counts": [7, PIXELS]}, "with RLE that does not fill the picture"),
        ({"size": [30, 40], "counts": [7, 9]}, "with RLE that does not fill the picture"),
        ({"size": [30, 40], "counts": [-7, PIXELS + 7]}, "with RLE whose counts are out of range"),
        ({"size": [30, 40], "counts": [10**30, 7]}, "with RLE whose counts are out of range"),
        ({"size": [30, 40], "counts": [PIXELS]}, "with an empty mask"),
        ({"size": [30, 40], "counts": ""}, "with RLE that does not fill the picture"),
        ({"size": [30, 40], "counts": "oooooooooooo"}, "with RLE whose counts cannot be decoded"),
        ({"size": [30, 40], "counts": "ooooooo0"}, "with RLE whose counts cannot be decoded"),
        ({"size": [30, 40], "counts": "eJyLNlQwjAUABJEBSg=="}, "with RLE whose counts cannot be decoded"),
        ({"size": [30, 40], "counts": "\u20ac"}, "with RLE whose counts cannot be decoded"),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_has_its_reason(value: Any, reason: str) -> None:
    assert refused(value)[0] == reason


def test_what_was_found_is_told() -> None:
    assert refused([[2e8, *TRIANGLE[1:]]])[1] == "2e+08 in a picture of 40 x 30 pixels"
    assert "swapped" in refused({"size": [40, 30], "counts": [PIXELS]})[1]
    deep = json.loads("[" * 300 + "]" * 300)
    assert len(refused([[deep] * 6])[1]) < 120


@pytest.mark.parametrize("parts", [[[0, 0, 1, 0, 1, 1, 0, 1]], [[0.2, 0.2, 1, 0, 0, 1], TRIANGLE]])
def test_masks_at_the_first_pixel_are_taken(parts: list[list[float]]) -> None:
    mask = read_segmentation(parts, FRAME).mask(FRAME)
    assert mask.any()
    assert (mask == by_pycocotools(parts)).all()


def test_parts_without_an_area_do_not_spoil_the_others() -> None:
    mask = read_segmentation([TRIANGLE, [], [3, 3], [1, 1, 9, 9]], FRAME).mask(FRAME)
    assert (mask == by_pycocotools([TRIANGLE])).all()


def test_what_lies_outside_is_cut_off() -> None:
    mask = read_segmentation([[-20, -10, 60, -10, 60, 15, -20, 15]], FRAME).mask(FRAME)
    assert mask[:14].all()
    assert not mask[16:].any()
