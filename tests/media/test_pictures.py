"""Pictures as files: what they look like, which way is up, what is refused, which are found."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps, TiffImagePlugin, features

from media.pictures import (
    MAX_PICTURE_SIDE_PX,
    decode_picture,
    picture_info,
    read_label_map,
    read_picture,
    write_picture,
)
from stages.errors import InputError
from tests.support.picture_files import NOISE, deep, differs, picture_size, set_tag

# Pillow warns of some damaged files; outside of pytest media.pictures silences that.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


# Colour and transparency


@pytest.mark.parametrize(
    ("mode", "suffix", "most"),
    [
        ("RGB", "png", 0), ("RGB", "bmp", 0), ("RGB", "tif", 0), ("RGB", "ppm", 0), ("RGBA", "png", 0),
        ("CMYK", "tif", 0), ("YCbCr", "tif", 4), ("LAB", "tif", 20), ("RGBA", "tif", 0), ("RGB", "jp2", 0),
    ],
)  # fmt: skip
def test_colour_modes_become_rgb(tmp_path: Path, mode: str, suffix: str, most: int) -> None:
    path = tmp_path / f"a.{suffix}"
    smooth = cv2.resize(NOISE // 2 + 60, (64, 48))  # inside what LAB holds
    Image.fromarray(smooth).convert(mode).save(path)
    assert differs(path, smooth) <= most


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA"])
def test_grey_and_palettes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    image.save(path)
    assert differs(path, np.asarray(image.convert("RGB"))) == 0


def test_cmyk_of_adobe_is_not_inverted(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=95)  # as Adobe writes it: inverted
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert differs(tmp_path / "a.jpg", flat) <= 8


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 1] = 200, 100, 0, 255
    rgba[:, 2] = 0, 0, 0, 51
    expected = np.array([[[255] * 3, [200, 100, 0], [204] * 3]] * 2)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    assert differs(tmp_path / "a.png", expected) <= 1
    assert differs(tmp_path / "a.tif", expected) <= 1
    grey = Image.fromarray(np.array([[0, 7]], np.uint8))
    grey.save(tmp_path / "b.png", transparency=0)  # as one shade that is transparent
    assert read_picture(tmp_path / "b.png")[0, :, 0].tolist() == [255, 7]
    palette = grey.convert("P")
    palette.save(tmp_path / "c.gif", transparency=0)
    assert read_picture(tmp_path / "c.gif")[0, :, 0].tolist() == [255, 7]


# Which way is up


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg", "mpo"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    more: dict[str, Any] = (
        {"save_all": True, "append_images": [Image.fromarray(NOISE)]} if suffix == "mpo" else {}
    )
    if suffix == "webp":
        more["lossless"] = True
    Image.fromarray(NOISE).save(path, exif=exif_of(orientation), **more)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (expected.shape[0] == 32) == (orientation in (5, 6, 7, 8))
    assert differs(path, expected) == 0


def test_exif_behind_the_data_of_a_png_counts_in_size_and_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    content, exif = path.read_bytes(), exif_of(6).tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    path.write_bytes(content[:-12] + b"eXIf" + chunk + content[-12:])
    assert picture_size(path) == (32, 24)
    assert differs(path, np.rot90(NOISE, -1)) == 0
    path.write_bytes(content[:-12] + chunk[:-1] + b"?" + content[-12:])
    assert picture_size(path) == (24, 32)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_megabytes_of_text_or_colours_in_a_png_do_not_lose_the_picture(tmp_path: Path, kind: bytes) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    more = kind + b"a\0\0" + zlib.compress(bytes(3_000_000))
    chunk = struct.pack(">I", len(more) - 4) + more + struct.pack(">I", zlib.crc32(more))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert differs(tmp_path / "a.png", NOISE) == 0


def test_the_header_of_a_large_png_is_read_at_once(tmp_path: Path) -> None:
    """Not chunk by chunk, of which there are as many as a writer likes."""
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    chunk = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "a.png").write_bytes(content[:-12] + chunk * 500_000 + content[-12:])
    began_s = time.process_time()
    assert picture_size(tmp_path / "a.png") == (24, 32)
    assert time.process_time() - began_s < 0.25


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00rubbish", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00"]
)
def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(path, exif=exif)
    assert picture_size(path) == (24, 32)
    assert read_picture(path).shape == (24, 32, 3)


# Several pictures in one file, and large ones


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "mpo"])
def test_the_first_of_several_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (32, 24), (shade, shade, shade)) for shade in (10, 100, 200)]
    path = tmp_path / f"a.{suffix}"
    more: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    assert picture_info(path).count == 3
    assert differs(path, np.asarray(frames[0])) <= 2


def test_one_picture_counts_as_one(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.gif")
    Image.fromarray(NOISE).save(tmp_path / "a.jpg")
    assert [picture_info(tmp_path / name).count for name in ("a.gif", "a.jpg")] == [1, 1]


def bmp_header(path: Path, width: int, height: int) -> Path:
    """A file that says it has so many pixels."""
    Image.new("RGB", (2, 2)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(content)
    return path


def test_a_phones_largest_picture_is_taken_and_more_is_refused(tmp_path: Path) -> None:
    assert picture_size(bmp_header(tmp_path / "a.bmp", 16320, 12240)) == (12240, 16320)
    words = r"a.bmp cannot be read \(it has 16001 x 16000 pixels; at most 256 megapixels and 65500 a side"
    with pytest.raises(InputError, match=words):
        picture_size(bmp_header(tmp_path / "a.bmp", 16001, 16000))
    with pytest.raises(InputError, match="65501 x 2 pixels"):
        read_picture(bmp_header(tmp_path / "a.bmp", MAX_PICTURE_SIDE_PX + 1, 2))


READ_MEASURED = """
import sys
from pathlib import Path
from media.pictures import read_picture

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

path = Path(sys.argv[1])
before = status("VmRSS")
shape = read_picture(path).shape
print((status("VmHWM") - before) / (shape[0] * shape[1]))
"""


@pytest.mark.parametrize(
    ("name", "values", "most"),
    [
        ("rgba.bmp", np.full((1, 1, 4), 130, np.uint8), 7),
        ("16.tif", np.full((1, 1), 4000, np.uint16), 7),
        ("colour of 16.tif", np.full((1, 1, 3), 4000, np.uint16), 11),
    ],
)
def test_reading_takes_little_more_than_what_is_decoded_and_returned(
    tmp_path: Path, name: str, values: npt.NDArray[Any], most: int
) -> None:
    """The peak of a process of its own, in bytes a pixel, with 40 MB for strips and decoders."""
    side = 2800
    path = deep(tmp_path / name, np.tile(values, (side, side, *(1,) * (values.ndim - 2))))
    line = [sys.executable, "-c", READ_MEASURED, str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) < most + 40e6 / side**2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1, MAX_PICTURE_SIDE_PX)])
def test_flat_and_tiny_pictures_are_read_and_written(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert pixels.shape == (size[1], size[0], 3)
    write_picture(tmp_path / "b.JPG", pixels)
    assert picture_size(tmp_path / "b.JPG") == (size[1], size[0])


# What is no picture


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is an HTML page"),
        (b'<?xml version="1.0"?><svg>', "it is XML or SVG"),
        (b'{"error": 404}', "it is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "it is HEIC: convert it"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is PostScript: convert it"),
        (bytes(4096), "it holds zeros alone"),
        (b"II*\x00\xff\xff\xff\xff", "a TIFF of a kind that is not read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_picture_is_named_with_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_picture, picture_size, read_label_map):
        with pytest.raises(InputError) as caught:
            read(path)
        assert words in str(caught.value)
        assert f"{path} cannot be read" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("jpg", "the file ends before the picture does"),
        ("bmp", "the file ends before the picture does"),
        ("tif", "the file ends before the picture does"),
        ("webp", "cannot be read"),
    ],
)
def test_a_file_that_was_not_copied_to_its_end_is_refused(tmp_path: Path, suffix: str, words: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(NOISE, (9, 9, 1))).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(InputError, match=words):
        read_picture(path)


def test_colour_in_float_is_refused_in_a_sentence(tmp_path: Path) -> None:
    deep(tmp_path / "a.tif", (NOISE / 255).astype(np.float32))
    with pytest.raises(InputError, match="colour in float"):
        read_picture(tmp_path / "a.tif")


READ_ALL = """
import sys
from pathlib import Path
from media.pictures import read_picture
from stages.errors import InputError
for name in sys.argv[1:]:
    try:
        print(read_picture(Path(name)).shape)
    except InputError as exc:
        print(exc)
"""


def test_pillow_says_nothing_by_itself(tmp_path: Path) -> None:
    """Neither of a picture larger than its own limit, nor of damage."""
    bmp_header(tmp_path / "large.bmp", 14000, 7000)
    Image.fromarray(NOISE).save(tmp_path / "exif.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    Image.fromarray(NOISE).save(tmp_path / "samples.tif")
    set_tag(tmp_path / "samples.tif", TiffImagePlugin.SAMPLESPERPIXEL, 200)
    names = ("large.bmp", "exif.jpg", "samples.tif")
    line = [sys.executable, "-c", READ_ALL, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    large, exif, samples = done.stdout.splitlines()
    assert "large.bmp cannot be read (the file ends before" in large
    assert exif == "(24, 32, 3)"
    assert "samples.tif cannot be read" in samples


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert differs(tmp_path / "a.jpg", NOISE) == 0


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, words in (
        ("folder.jpg", "it is a folder"),
        ("pipe.jpg", "it is no regular file"),
        ("link.jpg", "No such file"),
        ("zero.jpg", "it is no regular file"),
    ):
        with pytest.raises(InputError, match=rf"{name} cannot be read \({words}"):
            read_picture(tmp_path / name)


def test_label_maps_keep_their_numbers(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2, 200]], np.uint8)
    Image.fromarray(numbers).save(tmp_path / "a.png", exif=exif_of(6))
    palette = Image.fromarray(numbers).convert("P")
    palette.putpalette([255, 0, 0] * 256)
    palette.save(tmp_path / "b.png")
    assert (read_label_map(tmp_path / "a.png") == numbers).all()
    assert (read_label_map(tmp_path / "b.png") == numbers).all()
    Image.fromarray(NOISE).save(tmp_path / "c.png")
    with pytest.raises(InputError, match=r"label map .*c\.png has colours or fractions \(mode RGB\)"):
        read_label_map(tmp_path / "c.png")


# Names


def test_any_name_is_written_and_read_and_named_in_print(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/photo_\xe9 50%: d.png"))
    write_picture(path, NOISE)
    assert differs(path, NOISE) == 0
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert (decoded[..., ::-1] == NOISE).all()
    assert (decode_picture(path.read_bytes(), "a") == NOISE).all()
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(caught.value).encode()  # a name that is not UTF-8 would fail here
    assert "photo_? 50%: d.png" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        write_picture(tmp_path / "absent" / "a.png", NOISE)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12), (10, 100, 200)).save(tmp_path / "a.avif", quality=100)
    assert differs(tmp_path / "a.avif", np.full((12, 16, 3), (10, 100, 200))) <= 4
