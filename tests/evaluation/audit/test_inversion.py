"""Pixels from hidden values: exact where they are linear, better than the mean of a real stage's."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.audit.embeddings import measure_embeddings, measure_inversion
from evaluation.audit.inversion import fit_inversion
from runtime.frames.canvas import Canvas, make_canvas
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.tensors import Array, Pixels
from stages.tile_code import cut
from tests.support.pictures import photo

MINI = GEOMETRIES["mini"]
DRAW = np.random.default_rng(5)


def canvases(frames: int) -> list[Canvas]:
    picture = photo("square")
    return [make_canvas(np.ascontiguousarray(np.roll(picture, 40 * n, axis=1)), MINI) for n in range(frames)]


def tokens_of(pixels: Pixels, side: int) -> Array:
    """The pixels of each patch: [n, side * side, P * P * 3]."""
    rows = [np.split(row, side, axis=2) for row in np.split(pixels, side, axis=1)]
    return np.stack([patch.reshape(len(pixels), -1) for row in rows for patch in row], axis=1)


def test_linear_values_are_inverted() -> None:
    pixels = DRAW.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    mixing = DRAW.normal(size=(48, 64))
    hidden = tokens_of(pixels, 2) @ mixing + 3
    inversion = fit_inversion(hidden[:30], pixels[:30])
    assert np.abs(inversion.invert(hidden[30:]).astype(int) - pixels[30:]).max() <= 1


def test_tokens_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="6 tokens are no square that divides windows of 8 pixels"):
        fit_inversion(np.zeros((2, 6, 4)), np.zeros((2, 8, 8, 3), np.uint8))


def test_values_that_tell_nothing_give_the_mean() -> None:
    """As good as guessing: what comes out is the same whatever is shown."""

    def nothing(canvas: Canvas, windows: object) -> Array:
        assert isinstance(windows, list)
        return np.ones((len(windows), MINI.window**2, 8), np.float32)

    def everything(canvas: Canvas, windows: object) -> Array:
        assert isinstance(windows, list)
        return tokens_of(np.stack([cut(canvas.pixels, window, MINI) for window in windows]), MINI.window)

    blind, seeing = (measure_inversion(values, canvases(6), 0) for values in (nothing, everything))
    assert blind["psnr"]["mean"] < 20
    assert seeing["psnr"]["mean"] > blind["psnr"]["mean"] + 8
    assert measure_inversion(nothing, canvases(1), 0) == {}


def test_embeddings_of_the_shipped_bundle_show_what_was_sent() -> None:
    found = measure_embeddings(Bundle.load(shipped_bundle()), canvases(8), 0)
    assert found["psnr"]["mean"] > 19
    assert found["psnr"]["values"] == 4 * 16  # windows full of picture, of 384 pixels: 4 x 4
    assert 0.3 < found["ssim"]["mean"] < 0.9
