"""Pictures, folders and videos, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.sources import PictureSource, VideoSource, open_source
from stages.errors import InputError
from tests.edge import write_photo
from tests.pictures import photo

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(path: Path, size: tuple[int, int] = (6, 4), colour: tuple[int, int, int] = RED) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_a_picture_is_one_frame(tmp_path: Path) -> None:
    source = open_source(write_photo(tmp_path / "cup.png"))
    (frame,) = source
    assert (frame.number, frame.name, frame.error, source.count, source.fps) == (0, "cup", None, 1, None)
    assert frame.pixels.dtype == np.uint8
    assert np.array_equal(frame.pixels, photo("16:9"))
    assert source.sizes() == {(360, 640)}


def test_a_folder_is_sorted_and_its_other_files_are_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", (5, 5))
    picture(tmp_path / "a.JPG")
    picture(tmp_path / "c.webp")
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(tmp_path)
    assert [(frame.number, frame.name) for frame in source] == [(0, "a"), (1, "b"), (2, "c")]
    assert source.sizes() == {(5, 5), (4, 6)}
    assert [frame.number for frame in source] == [0, 1, 2]  # read again from the start


def test_pictures_that_differ_in_their_suffix_alone_keep_different_names(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "b.png"):
        picture(tmp_path / name)
    assert [frame.name for frame in open_source(tmp_path)] == ["a.bmp", "a.png", "b"]


def test_transparency_and_grey_become_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4), (*RED, 100)).save(tmp_path / "a.png")
    Image.new("L", (6, 4), 7).save(tmp_path / "b.png")
    first, second = open_source(tmp_path)
    assert first.pixels.shape == second.pixels.shape == (4, 6, 3)
    assert first.pixels[0, 0].tolist() == list(RED)
    assert second.pixels[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:, :32] = RED
    turned = {3: 2, 6: 1, 8: 3}.get(orientation)  # times 90 degrees, anticlockwise, as the camera was held
    stored = upright if turned is None else np.rot90(upright, turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    source = PictureSource([path])
    (frame,) = source
    assert source.sizes() == {frame.pixels.shape[:2]}
    if orientation in (0, 1, 3, 6, 8, 9):  # the others mirror; 0 and 9 mean nothing
        assert np.abs(frame.pixels.astype(int) - upright).max() < 60


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_picture_whose_data_end_early_is_one_lost_frame(tmp_path: Path, suffix: str) -> None:
    for name in ("a.png", f"b.{suffix}", "c.png"):
        write_photo(tmp_path / name)
    whole = (tmp_path / f"b.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path)
    assert source.sizes() == {(360, 640)}
    frames = list(source)
    assert [frame.error is None for frame in frames] == [True, False, True]
    assert frames[1].error is not None
    assert f"b.{suffix} cannot be decoded" in frames[1].error
    assert frames[1].pixels.size == 0
    assert np.array_equal(frames[2].pixels, photo("16:9"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture at all" * 10])
def test_a_picture_without_a_readable_header_is_refused_up_front(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(InputError, match=r"b.png cannot be read .* remove it"):
        open_source(tmp_path).sizes()


def test_a_picture_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.bmp")
    content = bytearray(path.read_bytes())
    content[18:26] = (50_000).to_bytes(4, "little") * 2  # width and height in the header
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.bmp cannot be read"):
        open_source(path).sizes()


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One picture in each format, and a path to write damaged copies to."""
    folder = tmp_path_factory.mktemp("encoded")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8))
    for suffix in ("png", "jpg", "bmp", "webp"):
        image.save(folder / f"a.{suffix}")
    return {path.suffix: path.read_bytes() for path in sorted(folder.iterdir())}


@given(
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".webp"]),
    changes=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 199) | st.none(),
)
def test_any_damage_is_refused_or_one_lost_frame(
    encoded: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    content = bytearray(encoded[suffix])
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(content[:cut])
    source = PictureSource([path])
    try:
        sizes = source.sizes()
    except InputError:
        return
    (frame,) = source
    assert frame.error or {frame.pixels.shape[:2]} == sizes


def film(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for number in range(frames):
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0 if number else 2] = 200  # the first frame is red, the others blue (BGR)
        writer.write(image)
    writer.release()
    return path


def test_a_video_gives_its_frames_in_rgb_with_their_times(tmp_path: Path) -> None:
    source = open_source(film(tmp_path / "pan.mp4", 5))
    assert isinstance(source, VideoSource)
    assert (source.fps, source.count) == (10.0, 5)
    assert source.sizes() == {(48, 64)}
    frames = list(source)
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert len({frame.name for frame in frames}) == 5
    assert frames[0].pixels[24, 32, 0] > 150 > 50 > frames[0].pixels[24, 32, 2]
    assert frames[4].pixels[24, 32, 2] > 150 > 50 > frames[4].pixels[24, 32, 0]
    assert frames[0].pixels.flags["C_CONTIGUOUS"]
    assert len(list(source)) == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.png", "does not exist"),
        ("absent", "does not exist"),
        ("empty", "holds no pictures"),
        ("notes.txt", "of an unknown kind"),
        ("broken.mp4", "cannot be opened as a video"),
    ],
)
def test_what_is_no_source_is_refused_in_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)
