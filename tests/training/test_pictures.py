"""Training pictures by number: kept in memory, or read from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.errors import InputError
from tests.support.training import TINY, write_pair
from training.data import on_canvas, read_samples
from training.pictures import InMemory, OnDisk, open_pictures
from training.tally import Tally


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_pictures_come_by_number_on_the_canvas(tmp_path: Path, kind: type[InMemory] | type[OnDisk]) -> None:
    first, second = write_pair(tmp_path, "a"), write_pair(tmp_path, "b")
    second[:10] = 9
    Image.fromarray(second).save(tmp_path / "b.png")
    samples = read_samples(tmp_path, None, Tally())
    pictures = kind(samples, TINY, torch.device("cpu"))
    pictures.prefetch([1, 0, 1])
    images, labels, sizes = pictures.take([1, 0, 1])
    rows, cols = TINY.resized(*first.shape)
    assert sizes.tolist() == [[rows, cols]] * 3
    assert images.shape == (3, 80, 80, 3)
    for n, sample in zip((0, 1, 2), (samples[1], samples[0], samples[1]), strict=True):
        image, label_map = on_canvas(sample, TINY)
        assert (images[n, :rows, :cols].numpy() == image).all()
        assert (labels[n, :rows, :cols].numpy() == label_map).all()
        assert not images[n, rows:].any()
    assert pictures.count == 2


def test_few_pictures_are_kept_in_memory_and_many_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path, "a")
    samples = read_samples(tmp_path, None, Tally())
    assert isinstance(open_pictures(samples, TINY, torch.device("cpu")), InMemory)
    monkeypatch.setattr("training.pictures.MEMORY", 80 * 80 * 4 - 1)
    assert isinstance(open_pictures(samples, TINY, torch.device("cpu")), OnDisk)


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_the_next_picture_stands_in_for_a_damaged_one(
    tmp_path: Path, kind: type[InMemory] | type[OnDisk], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        write_pair(tmp_path, name)
    cut = tmp_path / "b.jpg"
    cut.write_bytes(cut.read_bytes()[:-3000])
    broken = tmp_path / "c.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    samples = read_samples(tmp_path, None, Tally())
    pictures = kind(samples, TINY, torch.device("cpu"))
    taken = pictures.take([1, 0, 2])
    assert (taken[0][0] == taken[0][1]).all()  # of b and c, a
    assert (taken[1][2] == taken[1][1]).all()
    assert pictures.objects == [2, 2, 0]
    pictures.take([1, 0, 2])
    said = capsys.readouterr().out
    assert said.count("picture b is left out, another is used instead: ") == 1
    assert said.count("picture c is left out, another is used instead: ") == 1
    with pytest.raises(InputError, match="none of the pictures can be read"):
        kind(samples[1:], TINY, torch.device("cpu")).take([0])
