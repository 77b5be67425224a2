"""What a training step sees: crops, colours, pasted objects, each object in its turn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.support.training import CPU, TINY, Drawn, Tinted, batches
from training.augmentation import Batches
from training.pictures import InMemory


class Lonely(Drawn):
    """One of its objects alone."""

    def labels(self) -> npt.NDArray[np.uint8]:
        return np.minimum(super().labels(), 1)


class Uncoloured(Batches):
    def _colour(self, pixels: Tensor) -> Tensor:
        return pixels


def test_a_crop_keeps_its_objects_in_place() -> None:
    """Pictures whose colour says which object a pixel belongs to still do so after cutting and mirroring."""
    drawer = Uncoloured(InMemory([Tinted()] * 2, TINY, CPU), CPU, seed=3)
    drawn = drawer.draw(16, 2, 80)
    grey = drawn.pixels[:, 0] * drawer._std[0, 0] + drawer._mean[0, 0]
    inside = drawn.full.any(dim=1) & (grey > 100)
    assert inside.sum() > 0.9 * drawn.full.any(dim=1).sum()
    assert drawn.valid.any()
    for n in range(16):
        for k in range(2):
            if drawn.valid[n, k] and drawn.full[n, k].sum() > 60:
                values = grey[n][drawn.full[n, k]]
                assert values.median() in (pytest.approx(120, abs=2), pytest.approx(200, abs=2))


def test_pictures_of_more_objects_come_more_often() -> None:
    drawer = Batches(InMemory([Drawn(), Lonely()], TINY, CPU), CPU, seed=0)
    chosen = []
    for drawer.drawn in range(50):
        chosen += drawer._chosen(6)
    assert 0.6 < chosen.count(0) / len(chosen) < 0.73  # two thirds


def test_every_object_is_asked_for_before_one_comes_again() -> None:
    labels = torch.from_numpy(Drawn().labels())
    batch = next(batches(held_back=4).held_back(4, 5))
    for n in range(4):
        areas = [int(full.sum()) for full in batch.full[n]]
        both = {int((labels == 1).sum()), int((labels == 2).sum())}
        assert set(areas[:2]) == both
        assert areas == [*areas[:2], *areas[:2], areas[0]]


def test_pixels_outside_the_crop_are_zero_and_objects_never_lie_there() -> None:
    drawn = batches(seed=4).draw(32, 2, 80)
    blank = (drawn.pixels == 0).all(dim=1)
    assert blank.any()
    assert not (drawn.full & blank[:, None]).any()


def test_an_object_of_the_next_picture_is_pasted_with_its_pixels_and_label() -> None:
    drawer = batches()
    pixels = torch.zeros(2, 3, 80, 80)
    labels = torch.zeros(2, 80, 80, dtype=torch.uint8)
    pixels[0], labels[0, 10:30, 20:40] = 100, 3
    extent = torch.tensor([[80.0, 80.0], [80.0, 30.0]])
    pasted = [drawer._paste(pixels, labels, extent) for _ in range(40)]
    got = [(after, marked) for after, marked in pasted if (marked[1] == 255).any()]
    assert 2 < len(got) < 25
    for after, marked in got:
        where = torch.zeros(80, 80, dtype=torch.bool)
        where[10:30, 20:30] = True  # what lies beyond the picture's own edge is left out
        assert torch.equal(marked[1] == 255, where)
        assert torch.equal(after[1, 0] == 100, where)
        assert torch.equal(marked[0], labels[0])


def test_smaller_canvases_show_the_same_scene() -> None:
    """A batch of half the size is the batch of full size, shrunk."""
    large, small = (batches(seed=5, sample=Tinted).draw(8, 2, size) for size in (80, 32))
    shrunk = torch.nn.functional.interpolate(large.pixels, (32, 32), mode="area")
    assert small.pixels.shape == (8, 3, 32, 32)
    assert small.masks.shape == (8, 2, 8, 8)
    assert (shrunk - small.pixels).abs().mean() < 0.25 * (shrunk - small.pixels.flip(0)).abs().mean()
