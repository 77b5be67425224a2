"""Outlines are seen on any ground, names are where their objects are."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from runtime.frames.sources import Frame
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.results.drawing import AMBER, DARK, LIGHT, Box, draw_names, draw_outline, in_ascii, text_of
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import PALETTE, draw_overlay
from stages.tensors import Pixels

GROUNDS = ((0, 0, 0), (255, 255, 255), (128, 128, 128), (119, 119, 119), *PALETTE)
MASK = np.zeros((120, 160), bool)
MASK[40:90, 30:120] = True


def plain(colour: tuple[int, int, int] = (128, 128, 128)) -> Pixels:
    return np.full((120, 160, 3), colour, np.uint8)


def luminance(rgb: npt.NDArray[np.uint8] | tuple[int, ...]) -> float:
    share = np.asarray(rgb, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: npt.NDArray[np.uint8] | tuple[int, ...], b: tuple[int, ...]) -> float:
    """As WCAG defines it, 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("line", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", PALETTE)
@pytest.mark.parametrize("ground", GROUNDS)
def test_some_line_of_an_outline_stands_out_from_any_ground(
    ground: tuple[int, int, int], colour: tuple[int, int, int], line: int
) -> None:
    picture = plain(ground)
    outline, _ = cv2.findContours(MASK.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    draw_outline(picture, outline, colour, line)
    across = picture[65, :70]  # over the left side
    assert max(contrast(pixel, ground) for pixel in across) > 4
    for tone in (DARK, LIGHT, colour):
        assert any((pixel == tone).all() for pixel in across), tone


def found(name: str, trust: Trust = Trust(0.9)) -> ObjectResult:  # noqa: B008  (frozen)
    return ObjectResult(name, 0, TrackState.TRACKED, 0.9, MASK, None, trust)


def drawn(*named: tuple[ObjectResult, Box], picture: Pixels | None = None) -> npt.NDArray[np.bool_]:
    """Which pixels names change."""
    before = plain() if picture is None else picture.copy()
    picture = before.copy()
    draw_names(picture, [(each, box, PALETTE[0]) for each, box in named])
    return np.asarray((picture != before).any(axis=2))


def test_a_name_stands_above_the_middle_of_its_object() -> None:
    rows, cols = np.nonzero(drawn((found("cup"), (30, 40, 120, 90))))
    assert rows.max() < 40
    assert abs((cols.min() + cols.max()) / 2 - 75) < 2


def test_two_names_at_one_place_are_both_read() -> None:
    both = drawn((found("cup"), (30, 40, 120, 90)), (found("saucer"), (30, 40, 120, 90)))
    one, other = (drawn((found(name), (30, 40, 120, 90))) for name in ("cup", "saucer"))
    assert both.sum() >= one.sum() + other.sum()


@pytest.mark.parametrize("box", [(0, 0, 160, 120), (150, 0, 160, 3), (0, 110, 4, 120)])
def test_a_name_stays_in_the_picture(box: Box) -> None:
    assert drawn((found("a name that is longer than the picture is wide"), box)).any()
    narrow = np.zeros((8, 6, 3), np.uint8)
    assert drawn((found("cup"), (0, 0, 6, 8)), picture=narrow).any()


def test_a_mask_to_be_checked_says_so_on_amber_and_is_not_filled() -> None:
    plain_result, to_check = (
        FrameResult(Frame(0, "a", 0.0, plain()), (found("cup", trust),))
        for trust in (Trust(0.9), Trust(0.3, Check.GREW))
    )
    assert text_of(to_check.objects[0]) == "cup: check, grew"
    sure, unsure = draw_overlay(plain_result, None), draw_overlay(to_check, None)
    assert (sure[65, 75] != 128).any()
    assert (unsure[65, 75] == 128).all()
    nearest = np.abs(unsure.astype(int) - AMBER).sum(axis=2).min()
    assert nearest < 0.25 * np.abs(sure.astype(int) - AMBER).sum(axis=2).min() + 100


def test_letters_that_a_font_lacks_are_written_without_accents() -> None:
    assert in_ascii("Tasse grün ☕ ж") == "Tasse grun ? ?"
