"""Masks: how well two agree, and what JSON holds of one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.objects.masks import Mask, decode_mask, encode_mask, iou


def drawn(*rows: str) -> Mask:
    """A mask from rows of "#" and "."."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_iou_by_hand() -> None:
    a = drawn("##..", "##..")
    assert iou(a, drawn("##..", "##..")) == 1.0
    assert iou(a, drawn(".##.", ".##.")) == pytest.approx(2 / 6)
    assert iou(a, drawn("..##", "..##")) == 0.0


def test_iou_of_empty_masks_is_what_the_caller_says() -> None:
    nothing = drawn("....")
    assert iou(nothing, nothing) == 1.0
    assert iou(nothing, nothing, empty=0.0) == 0.0
    assert iou(nothing, drawn("#..."), empty=0.5) == 0.0


@pytest.mark.parametrize("rows", [("....",), ("####",), ("#..#", ".##.", "...#")])
def test_a_mask_survives_json(rows: tuple[str, ...]) -> None:
    encoded = json.loads(json.dumps(encode_mask(drawn(*rows))))
    assert encoded["size"] == [len(rows), 4]
    assert np.array_equal(decode_mask(encoded), drawn(*rows))
