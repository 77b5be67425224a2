"""Which windows a box keeps: those that show any of its pixels, found by changing these pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import make_canvas
from runtime.frames.kept import KeptBoxes
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry

MINI = GEOMETRIES["mini"]


def changed(box: BoxXyxy, height: int, width: int, geometry: Geometry) -> set[int]:
    """The windows of a canvas that are another picture when the box is white instead of black."""
    left, top, right, bottom = box
    black = np.zeros((height, width, 3), np.uint8)
    white = black.copy()
    rows = slice(max(0, int(np.floor(top))), max(0, int(np.ceil(bottom))))
    white[rows, max(0, int(np.floor(left))) : max(0, int(np.ceil(right)))] = 255
    canvases = [make_canvas(pixels, geometry) for pixels in (black, white)]
    return {
        window
        for window in canvases[0].windows
        if not np.array_equal(canvases[0].tile(window), canvases[1].tile(window))
    }


sides = st.integers(1, 900)
shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda pair: pair[0] < pair[1])


@settings(max_examples=150, deadline=None)
@given(sides, sides, shares, shares)
def test_every_window_that_shows_a_pixel_of_the_box_is_kept(
    height: int, width: int, across: list[float], down: list[float]
) -> None:
    box = (across[0] * width, down[0] * height, max(across[1] * width, 1.5), max(down[1] * height, 1.5))
    assert changed(box, height, width, MINI) <= KeptBoxes((box,)).windows(MINI, height, width)


@pytest.mark.parametrize("size", [(384, 384), (216, 384), (360, 640), (1080, 1920), (120, 90)])
def test_no_other_window_is_kept(size: tuple[int, int]) -> None:
    """But for mixtures that round to nothing: one pixel of the canvas around the box."""
    height, width = size
    for box in ((0.0, 0.0, 2.0, 2.0), (width * 0.3, height * 0.4, width * 0.6, height * 0.9)):
        around = max(1, max(size) / 384)
        wide = (box[0] - around, box[1] - around, box[2] + around, box[3] + around)
        assert KeptBoxes((box,)).windows(MINI, *size) <= changed(wide, *size, MINI)


def test_a_window_that_a_box_only_borders_is_not_kept() -> None:
    """Where the picture is not resized; where it is, the border is mixed into the next window."""
    boxes = KeptBoxes(((80.0, 0.0, 160.0, 80.0),))
    assert boxes.windows(MINI, 384, 384) == {1}
    assert boxes.windows(MINI, 768, 768) == {0, 1}
    assert KeptBoxes(((160.0, 0.0, 320.0, 160.0),)).windows(MINI, 768, 768) == {0, 1, 2, 5, 6, 7}


def test_a_box_is_the_same_pixels_in_frames_of_every_size() -> None:
    boxes = KeptBoxes(((0.0, 0.0, 300.0, 100.0), (500.0, 300.0, 520.0, 310.0)))
    assert boxes.windows(MINI, 360, 640) == {0, 1, 2, 13}
    assert boxes.windows(MINI, 100, 300) == frozenset(MINI.windows_with_picture(100, 300))


def test_nothing_is_kept_without_boxes() -> None:
    assert KeptBoxes().windows(MINI, 360, 640) == frozenset()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((5, 5, 5, 9), "--keep-box 5,5,5,9 is empty: give left, top, right, bottom"),
        ((9, 5, 5, 9), "not a width and a height"),
        ((0, 0, float("nan"), 9), "has a coordinate that is not a finite number"),
        ((0, 0, 2e6, 9), "has a coordinate that is not a finite number"),
        ((0.1, 0.1, 0.5, 1), "lies within one pixel: coordinates are pixels of the frame, not shares"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(box: BoxXyxy, words: str) -> None:
    with pytest.raises(InputError, match=words):
        KeptBoxes((box,))


def test_a_box_outside_a_frame_is_refused() -> None:
    boxes = KeptBoxes(((100, 80, 420, 360),))
    boxes.check_inside([(360, 640), (81, 101)])
    with pytest.raises(
        InputError, match=r"--keep-box 100,80,420,360 lies outside .* 100 x 90 pixels of b\.png"
    ):
        boxes.check_inside([(360, 640), (90, 100)], {(90, 100): "b.png"})
