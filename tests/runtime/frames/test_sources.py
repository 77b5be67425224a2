"""Pictures, folders and videos, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.frames.sources import PictureSource, TurnedSource, VideoSource, open_source
from runtime.results.run_folder import run_folder
from stages.errors import InputError
from tests.support.clips import clip, cut
from tests.support.edge import write_photo
from tests.support.pictures import photo

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
    assert first.pixels[0, 0].tolist() == [255, 155, 155]  # on white
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
    assert source.warnings == ()
    frames = list(source)
    assert [frame.error is None for frame in frames] == [True, False, True]
    assert frames[1].error is not None
    assert f"b.{suffix} cannot be read" in frames[1].error
    assert frames[1].pixels.size == 0
    assert np.array_equal(frames[2].pixels, photo("16:9"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture at all" * 10])
def test_a_picture_without_a_readable_header_is_one_lost_frame(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    source = open_source(tmp_path)
    assert source.sizes() == {(4, 6)}
    good, lost = source
    assert good.error is None
    assert lost.error is not None
    assert "b.png cannot be read" in lost.error
    alone = open_source(tmp_path / "b.png")
    assert alone.sizes() == frozenset()
    assert [frame.error for frame in alone] == [lost.error]


def test_a_picture_that_was_not_announced_is_lost(tmp_path: Path) -> None:
    """Which windows may leave is decided by the sizes that were there at the start."""
    (tmp_path / "a.png").write_bytes(b"")
    picture(tmp_path / "b.png", (6, 4))
    source = open_source(tmp_path)
    source.sizes()
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", (60, 40))
    first, second = source
    assert first.pixels.size == second.pixels.size == 0
    assert "it is empty" in str(first.error)
    assert "b.png has changed since the run began" in str(second.error)


def test_what_a_folder_leaves_out_is_told(tmp_path: Path) -> None:
    for name in ("2.png", "10.png", "2.jpg", "2.png.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    frames = [Image.new("RGB", (6, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    source = open_source(tmp_path)
    for _ in range(2):
        source.sizes()
        assert source.warnings == (
            "left out, not named as a picture is: notes.txt",
            "of files with several pictures only the first is taken: a.gif (2)",
            "results of pictures of one name are named with their suffix: 2.jpg, 2.png, 2.png.png",
        )
    assert [frame.name for frame in source] == ["2.jpg", "2.png", "2.png.png", "10", "a"]
    assert PictureSource([tmp_path / "10.png"]).warnings == ()


def test_names_that_differ_in_case_alone_stay_different_where_case_does_not_count(tmp_path: Path) -> None:
    for name in ("a.png", "A.bmp"):
        picture(tmp_path / name)
    assert {frame.name for frame in open_source(tmp_path)} == {"a.png", "A.bmp"}


def test_the_time_between_pictures_is_as_asked(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "10.png"):
        picture(tmp_path / name)
    assert [frame.time_s for frame in open_source(tmp_path)] == [0, 1, 2]
    assert [frame.time_s for frame in open_source(tmp_path, 25)] == pytest.approx([0, 0.04, 0.08])


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
    sizes = source.sizes()
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
        ("absent", "of an unknown kind"),
        ("long" * 100, "of an unknown kind"),
        ("empty", "holds no pictures"),
        ("others", "left out, not named as a picture is: a.heic"),
        ("notes.txt", "of an unknown kind"),
        ("broken.mp4", "cannot be opened as a video"),
        ("a.npy", "is no picture and no video: it is an array of NumPy"),
        ("a.dng", "is a raw photo"),
    ],
)
def test_what_is_no_source_is_refused_in_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others/a.heic").touch()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    write_photo(tmp_path / "a.tif").rename(tmp_path / "a.dng")
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_a_video_that_ends_early_is_told_after_its_last_frame(tmp_path: Path) -> None:
    path = cut(clip(tmp_path / "a.mp4", 60, container={"movflags": "faststart"}), 0.7)
    source = open_source(path)
    assert not source.warnings
    read = len(list(source))
    assert source.warnings == (f"a.mp4 ends early: {read} of 60 frames could be read",)
    list(source)  # as --verify does
    assert len(source.warnings) == 1


def test_a_video_that_changes_its_size_loses_frames_with_a_reason(tmp_path: Path) -> None:
    small = clip(tmp_path / "a.mjpeg", 2, codec="mjpeg", pixels="yuvj420p")
    large = clip(tmp_path / "b.mjpeg", 2, codec="mjpeg", pixels="yuvj420p", size=(96, 128))
    small.write_bytes(small.read_bytes() + large.read_bytes() + small.read_bytes())
    source = open_source(small)
    frames = list(source)
    assert source.sizes() == {(48, 64)}
    assert [frame.error is None for frame in frames] == [True, True, False, False, True, True]
    assert frames[2].error == (
        "a.mjpeg now has 128 x 96 pixels, and began with 64 x 48; convert it to one size first: "
        "ffmpeg -i FILE -vf scale=WIDTH:HEIGHT NEW.mp4"
    )
    assert frames[2].pixels.size == 0


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_files_are_turned_clockwise(tmp_path: Path, degrees: int, turns: int) -> None:
    path = cut(clip(tmp_path / "a.mp4", 60, container={"movflags": "faststart"}), 0.7)
    plain, turned = open_source(path), TurnedSource(open_source(path), degrees)
    frames = list(turned)
    for before, after in zip(plain, frames, strict=True):
        assert np.array_equal(after.pixels, np.rot90(before.pixels, turns))
        assert (after.name, after.time_s) == (before.name, before.time_s)
    assert turned.sizes() == {frames[0].pixels.shape[:2]}
    assert (turned.kind, turned.fps, turned.count) == ("video", 10.0, 60)
    assert turned.is_sequence
    assert turned.warnings == plain.warnings != ()


def test_a_lost_picture_stays_lost_when_it_is_turned(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:2000])
    source = TurnedSource(open_source(tmp_path), 90)
    assert source.kind == "folder"
    assert [frame.error is None for frame in source] == [True, False]


def test_what_is_found_out_with_the_sizes_is_told_when_turned(tmp_path: Path) -> None:
    class Remarking(PictureSource):
        def sizes(self) -> frozenset[tuple[int, int]]:
            self.warnings = ("one file was left out",)
            return super().sizes()

    source = TurnedSource(Remarking([write_photo(tmp_path / "a.png")]), 90)
    assert source.sizes() == {(640, 360)}
    assert source.warnings == ("one file was left out",)


def test_results_of_a_run_into_the_folder_of_its_pictures_are_not_told(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png")
    with run_folder(tmp_path, ["masks.jsonl", "summary.json", "overlay/*.jpg"]) as folder:
        for name in ("masks.jsonl", "summary.json", "overlay/a.jpg"):
            folder.note(tmp_path / name)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    source = open_source(tmp_path)
    source.sizes()
    assert source.warnings == ("left out, not named as a picture is: notes.txt",)


def test_a_range_of_values_that_was_chosen_is_told_once(tmp_path: Path) -> None:
    for number in range(5):
        values = np.arange(256, dtype=np.uint16).reshape(16, 16) + 1000 * (number + 1)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    source = open_source(tmp_path)
    for _ in range(2):
        assert len(list(source)) == 5
        assert source.warnings == (
            "values that are shown as black to white: 0.png (1000 to 1255), 1.png (2000 to 2255), "
            "2.png (3000 to 3255) and 2 more",
        )
