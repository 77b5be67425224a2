"""Filling what was not given, and measuring how near that comes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from evaluation.audit.attacks import ATTACKS, membrane, psnr, ssim_map
from evaluation.audit.views import View
from tests.support.pictures import photo

EVERYWHERE = np.ones(photo("16:9").shape[:2], bool)


def half_known() -> View:
    """A photograph in squares of 80 pixels, of which every other one is known."""
    picture = photo("16:9")
    rows, cols = np.indices(picture.shape[:2]) // 80
    known = (rows + cols) % 2 == 0
    return View(np.where(known[..., None], picture, 0).astype(np.uint8), known, frozenset())


def test_ssim_is_that_of_scikit_image() -> None:
    picture = photo("16:9")
    noisy = np.clip(picture + np.random.default_rng(1).normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
    grey = [np.round(each @ [0.299, 0.587, 0.114]).astype(np.uint8) for each in (picture, noisy)]
    _, expected = structural_similarity(  # type: ignore[no-untyped-call]
        *grey, gaussian_weights=True, use_sample_covariance=False, full=True, data_range=255
    )
    assert np.abs(ssim_map(picture, noisy) - expected)[8:-8, 8:-8].mean() < 0.005


def test_psnr() -> None:
    picture = photo("16:9")
    assert psnr(picture, picture, EVERYWHERE) == math.inf
    off = np.where(picture < 128, picture + 10, picture - 10).astype(np.uint8)
    assert psnr(picture, off, EVERYWHERE) == pytest.approx(20 * math.log10(255 / 10))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_what_is_known_stays(attack: object) -> None:
    assert callable(attack)
    view = half_known()
    made = attack(view)
    np.testing.assert_array_equal(made[view.known], view.pixels[view.known])
    nothing = View(view.pixels, np.zeros_like(view.known), frozenset())
    assert (attack(nothing)[~view.known] == 128).all()
    everything = View(photo("16:9"), EVERYWHERE, frozenset())
    np.testing.assert_array_equal(attack(everything), photo("16:9"))


def test_filling_beats_the_mean_colour() -> None:
    view, picture = half_known(), photo("16:9")
    found = {name: psnr(picture, attack(view), ~view.known) for name, attack in ATTACKS.items()}
    assert found["membrane"] > found["inpainting"] > found["mean colour"] + 1


def test_the_membrane_is_flat_between_equal_edges() -> None:
    pixels = np.full((64, 64, 3), 90, np.uint8)
    known = np.ones((64, 64), bool)
    known[20:44, 20:44] = False
    pixels[~known] = 0
    assert np.abs(membrane(View(pixels, known, frozenset())).astype(int) - 90).max() <= 1
