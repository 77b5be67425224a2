"""Folders of pictures and label maps: which file is which, odd label maps, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import InputError
from tests.support.training import masks_of
from training.data import holds_objects, read_pictures, read_samples
from training.samples import Sample
from training.tally import Tally


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "olive").save(path)


def label_map(path: Path, values: object = 1, mode: str | None = None) -> None:
    """A label map of 40 x 30 pixels with these values in its upper half, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.zeros((30, 40), np.int32)
    numbers[:15] = np.resize(np.asarray(values, np.int32), (15, 40))
    image = Image.fromarray(numbers.astype(np.uint8 if numbers.max() < 256 else np.uint16))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    elif mode:
        image = image.convert(mode)
    image.save(path)


def read(folder: Path, pictures: Path | None = None) -> tuple[list[Sample], Tally]:
    tally = Tally()
    return read_samples(folder, pictures, tally), tally


def test_suffixes_in_any_case_and_of_any_kind(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.Jpeg", "d.bmp", "e.WebP", "f.tif"):
        picture(tmp_path / name)
        label_map(tmp_path / f"{name[0]}.{'PNG' if name[0] < 'd' else 'png'}")
    samples, tally = read(tmp_path)
    assert [sample.name for sample in samples] == list("abcdef")
    assert tally.sentences() == []


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    label_map(tmp_path / "a.png")
    picture(tmp_path / "b.jpg")
    label_map(tmp_path / "c.png")
    (sample,), tally = read(tmp_path)
    assert sample.name == "a"
    assert tally.sentences() == [
        "of 2 pictures 1 is left out: 1 without a label map (b.jpg)",
        "of 2 label maps 1 is left out: 1 without a picture (c.png)",
    ]


def test_png_pictures_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.png")
        label_map(tmp_path / f"masks/{name}.png", 7)
    assert [sample.name for sample in read(tmp_path)[0]] == ["a", "b"]
    assert [sample.name for sample in read(tmp_path / "masks", tmp_path / "images")[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("photo", "drawn"),
    [
        ("Images/a.jpg", "Masks/a.png"),
        ("images/A.jpg", "masks/a.png"),
        ("IMAGES/a.JPG", "labels/A.jpg.PNG"),
        ("jpegimages/a.jpg", "segmentationobject/a.png"),
        ("A.JPG", "a.PNG"),
    ],
)
def test_names_and_folders_in_capitals(tmp_path: Path, photo: str, drawn: str) -> None:
    picture(tmp_path / photo)
    label_map(tmp_path / drawn)
    (sample,), tally = read(tmp_path)
    assert sample.name == Path(photo).stem
    assert tally.sentences() == []
    (same,) = read_pictures((tmp_path / photo).parent, (tmp_path / drawn).parent, tally)
    assert same.objects() == 1


def test_names_that_differ_in_capitals_alone_keep_their_label_maps(tmp_path: Path) -> None:
    for name in ("a", "A", "b", "B"):
        picture(tmp_path / f"images/{name}.jpg")
    for name, value in (("a", [1]), ("A", [1, 2]), ("b", [1, 2, 3])):
        label_map(tmp_path / f"masks/{name}.png", value)
    samples, tally = read(tmp_path)
    assert {sample.name: sample.objects() for sample in samples} == {"a": 1, "A": 2, "b": 3}
    assert tally.sentences() == ["of 4 pictures 1 is left out: 1 without a label map (B.jpg)"]


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "bmp", "gif", "pgm"])
def test_label_maps_in_other_formats_that_keep_their_numbers(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "images/a.tif")
    label_map(tmp_path / f"masks/a.{suffix}", [1, 2, 7])
    (sample,), tally = read(tmp_path)
    wanted = [0, 1, 2, 3 if suffix == "gif" else 7]  # Pillow numbers the colours of a GIF anew
    assert np.unique(sample.labels()).tolist() == wanted
    assert tally.sentences() == []
    Image.new("L", (40, 30), 1).save(tmp_path / "masks/a.png")
    (sample,), tally = read(tmp_path)
    assert sample.objects() == 1
    assert tally.left_out() == {"label maps": {"without a picture": 1}}


def test_label_maps_that_are_no_png_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.jpg")
    label_map(tmp_path / "masks/a.png")
    for name in ("a.jpg", "b.JPG"):  # that of a is not needed
        label_map(tmp_path / f"masks/{name}")
    (sample,), tally = read(tmp_path)
    assert sample.name == "a"
    assert tally.sentences() == [
        "of 2 pictures 1 is left out: 1 with a label map in a format that changes its numbers "
        "(b.JPG: save it as PNG)"
    ]


def test_a_folder_inside_the_other_holds_its_own_files_alone(tmp_path: Path) -> None:
    picture(tmp_path / "photos/a.png")
    label_map(tmp_path / "a.png")
    assert read(tmp_path, tmp_path / "photos")[1].sentences() == []
    picture(tmp_path / "b/b.png")
    label_map(tmp_path / "b/drawn/b.png")
    assert read(tmp_path / "b/drawn", tmp_path / "b")[1].sentences() == []


def test_pictures_of_one_name_keep_their_rows(tmp_path: Path) -> None:
    for name in ("x/1", "y/1", "y/2"):
        picture(tmp_path / f"{name}.jpg")
        label_map(tmp_path / f"{name}.png")
    assert [sample.name for sample in read(tmp_path)[0]] == ["2", "x/1.jpg", "y/1.jpg"]
    assert [sample.name for sample in read_pictures(tmp_path, None, Tally())] == ["x/1.jpg", "y/1.jpg", "2"]


def test_pictures_that_share_a_label_map(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.bmp", "2.jpg"):
        picture(tmp_path / name)
    label_map(tmp_path / "1.png")
    label_map(tmp_path / "2.png")
    (sample,), tally = read(tmp_path)
    assert sample.name == "2"
    assert tally.left_out() == {"pictures": {"that share a label map with another": 2}}
    label_map(tmp_path / "1.jpg.png")
    label_map(tmp_path / "1.bmp.png")
    assert [each.name for each in read(tmp_path)[0]] == ["1.bmp", "1.jpg", "2"]


@pytest.mark.parametrize(
    ("values", "mode", "count"),
    [
        ([1, 2, 3], None, 3),
        (255, None, 1),
        (255, "1", 1),
        ([1, 2, 255], "P", 2),
        ([1, 2, 255], "RGB", 3),
        ([1, 300, 40000], None, 3),
        (range(1, 401), None, 400),
    ],
)
def test_label_maps_of_all_depths(tmp_path: Path, values: object, mode: str | None, count: int) -> None:
    picture(tmp_path / "a.jpg")
    label_map(tmp_path / "a.png", values, mode)
    (sample,), _ = read(tmp_path)
    masks = masks_of(sample)
    assert masks.shape == (count, 30, 40)
    assert masks.any(axis=(1, 2)).all()
    labels = sample.labels()
    assert labels.dtype == np.uint8
    assert np.count_nonzero(np.unique(labels)) == sample.objects() == min(count, 255)


def test_colours_and_damage_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    (sample,), _ = read(tmp_path)
    with pytest.raises(InputError, match=r"label map .*a\.png has colours"):
        masks_of(sample)
    assert not holds_objects([sample])
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="1 that cannot be read, or their label map"):
        read(tmp_path)


def test_a_label_map_of_the_stored_pixels_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    label_map(tmp_path / "a.png")
    (sample,), _ = read(tmp_path)
    assert sample.image().shape == (40, 30, 3)
    assert masks_of(sample)[0, :, 15:].all()
    assert not masks_of(sample)[0, :, :15].any()
