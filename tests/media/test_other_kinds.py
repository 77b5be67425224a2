"""Files that bear the name of a picture or a video and are neither, or the other one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from media.other_kinds import check_no_raw_photo, not_a_picture, not_a_video
from media.pictures import read_picture
from media.videos import VideoReader
from stages.errors import InputError
from tests.support.clips import clip

PICTURE = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "flv"])
def test_a_video_that_is_named_as_a_picture_is_told(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "flv" if suffix == "flv" else "mpeg4"
    path = clip(tmp_path / f"a.{suffix}", 2, codec=codec).rename(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg cannot be read \(it is an? .* video: name it \.\w+\)"):
        read_picture(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_that_is_named_as_a_video_is_told(tmp_path: Path, suffix: str) -> None:
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), PICTURE)
    path = (tmp_path / f"a.{suffix}").rename(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=rf"cannot be opened as a video: it is an? .*: name it \.{suffix}"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\n<!DOCTYPE html>", "an HTML page"),
        (b"\xff\x0a", "JPEG XL: convert it"),
        (b"v/1\x01", "OpenEXR: convert it"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"%!PS-Adobe", "PostScript"),
        (b"\x93NUMPY\x01", "an array of NumPy"),
        (b"PK\x03\x04", "an archive: unpack it"),
        (bytes(64), "zeros alone"),
        (b"\0\0\0\x18ftypheic", "HEIC: convert it"),
    ],
)
def test_what_is_neither_is_told_of_both(start: bytes, words: str) -> None:
    assert words in str(not_a_picture(start))
    assert words in str(not_a_video(start))


def test_what_is_unknown_is_not_named() -> None:
    assert not_a_picture(b"anything") is not_a_video(b"") is None


def test_a_raw_photo_is_refused_by_its_name() -> None:
    check_no_raw_photo("a.tif", ".tif")
    with pytest.raises(InputError, match=r"a\.dng is a raw photo: convert it"):
        check_no_raw_photo("a.dng", ".dng")
