"""Video files: frames as OpenCV gave them, their own times, what ends early, and nothing else is opened."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from media.videos import VideoReader, is_video
from stages.errors import InputError
from tests.support.clips import blanked, clip, cut, picture, sound

# Of 255: how far colours may be from those of OpenCV, which converts ten bits a little differently.
TOLERANCE = 6
H264: dict[str, Any] = {"codec": "libx264"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": H264,
    "b.mp4": {**H264, "pixels": "yuv420p10le"},
    "c.mp4": {**H264, "pixels": "yuvj420p"},
    "fragmented.mp4": {**H264, "g": 5, "container": FRAGMENTS},
    "a.mov": {"codec": "png", "pixels": "rgb24"},
    "a.mkv": {"codec": "ffv1", "size": (47, 65)},
    "b.mkv": {"codec": "ffv1", "pixels": "gray"},
    "c.mkv": {"codec": "ffv1", "pixels": "yuva420p"},
    "a.avi": {"bf": 2},
    "b.avi": H264,
    "a.ts": H264,
    "a.webm": {"codec": "libvpx-vp9", "cpu-used": 8},
    "a.flv": H264,
    "a.mpg": {"codec": "mpeg2video", "fps": 25},
    "a.3gp": {},
    "a.gif": {"codec": "gif", "pixels": "rgb8"},
    "a.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p", "fps": 25},
    "a.h264": {**H264, "fps": 25},
}


def read(path: Path) -> tuple[list[float], list[Any], tuple[str, ...]]:
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        return [time_s for time_s, _ in frames], [pixels for _, pixels in frames], reader.warnings


def by_opencv(path: Path) -> list[Any]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1][..., ::-1])
    return found


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_opencv_at_their_own_times_and_nothing_is_told(tmp_path: Path, name: str) -> None:
    path = clip(tmp_path / name, **KINDS[name])
    times_s, frames, warnings = read(path)
    expected = by_opencv(path)
    assert len(frames) == len(expected) == 30
    for ours, theirs in zip(frames, expected, strict=True):
        assert ours.dtype == np.uint8
        assert ours.flags.c_contiguous
        assert np.abs(ours.astype(int) - theirs).max() <= TOLERANCE
    assert times_s == pytest.approx([number / KINDS[name].get("fps", 10) for number in range(30)], abs=0.002)
    assert warnings == ()


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_variable_frame_rate_keeps_its_times_from_the_first_frame(tmp_path: Path, suffix: str) -> None:
    times_ms = [300, 340, 380, 900, 1000, 2500]
    path = clip(tmp_path / f"a.{suffix}", 6, times_ms=times_ms, **H264)
    assert read(path)[0] == pytest.approx([(at - 300) / 1000 for at in times_ms], abs=0.001)


@pytest.mark.parametrize(
    ("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_a_video_is_turned_as_its_file_says(
    tmp_path: Path, degrees: int, matrix: tuple[int, int, int, int]
) -> None:
    path = clip(tmp_path / "a.mp4", 2)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # a, b, u, c, d, v: 16.16 and 2.30
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[at + 4 * place : at + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    _, frames, _ = read(path)
    upright = clip(tmp_path / "b.mp4", 2)
    assert np.array_equal(frames[0], np.rot90(read(upright)[1][0], -degrees // 90))
    assert np.array_equal(frames[0], by_opencv(path)[0])
    with VideoReader(path) as reader:
        assert reader.size == frames[0].shape[:2]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("a.mp4", {"container": {"movflags": "faststart"}}, " of 60 frames"),
        ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}, " of 60 frames"),
        ("a.mkv", {}, r" frames, \d\.\d of 6\.0 s,"),
        ("f.mp4", {"container": FRAGMENTS, "g": 5, "codec": "libx264"}, " frames, .* s,"),
    ],
)
def test_a_file_that_ends_before_its_index_does_is_told(
    tmp_path: Path, name: str, settings: dict[str, Any], words: str
) -> None:
    path = cut(clip(tmp_path / name, 60, **settings), 0.7)
    _, frames, warnings = read(path)
    assert 10 < len(frames) < 60
    (warning,) = warnings
    assert re.fullmatch(f"{name} ends early: {len(frames)}{words} could be read", warning)


def test_a_fragmented_file_does_not_count_its_frames(tmp_path: Path) -> None:
    """FFmpeg's number is that of the first fragment."""
    fragmented = clip(tmp_path / "a.mp4", container={"movflags": "frag_keyframe"}, g=5, **H264)
    for path, count in ((fragmented, None), (clip(tmp_path / "b.mp4"), 30), (clip(tmp_path / "c.mkv"), None)):
        with VideoReader(path) as reader:
            assert reader.count == count


def test_what_is_missing_behind_the_last_frame_is_not_told(tmp_path: Path) -> None:
    """Of Matroska, the index for seeking; of MP4, free space."""
    path = cut(clip(tmp_path / "a.mkv", 60), 0.999)
    assert read(path)[2] == ()
    path = clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes() + (1000).to_bytes(4, "big") + b"free")
    assert read(path)[2] == ()


def test_an_edit_list_leaves_frames_out_and_is_no_loss(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", **H264)
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12  # segment duration in milliseconds, then where it begins
    content[at : at + 4] = (1000).to_bytes(4, "big")
    path.write_bytes(content)
    times_s, _, warnings = read(path)
    assert 10 <= len(times_s) < 20
    assert warnings == ()


MXF: dict[str, Any] = {"codec": "mpeg2video", "fps": 25}
GIF: dict[str, Any] = {"codec": "gif", "pixels": "rgb8"}
BLANKED: dict[str, dict[str, Any]] = {
    "a.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.mkv": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.webm": {"codec": "libvpx", "size": (120, 160), "g": 2},
    "a.wmv": {"codec": "wmv2", "g": 2},
    "a.mxf": MXF,
    "a.gif": GIF,
}


@pytest.mark.parametrize("name", BLANKED)
def test_a_file_of_full_length_whose_end_was_not_written_is_told(tmp_path: Path, name: str) -> None:
    path = blanked(clip(tmp_path / name, 60, **BLANKED[name]), 0.5)
    _, frames, (warning,) = read(path)
    assert 0 < len(frames) < 60
    assert warning.startswith(
        (f"{name} ends early, though not its file: {len(frames)} ", f"{name} is damaged: ")
    )


@pytest.mark.parametrize(("name", "settings"), [("a.mxf", MXF), ("a.gif", GIF)])
def test_a_cut_file_that_has_no_length_of_its_own_is_told(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    _, frames, (warning,) = read(cut(clip(tmp_path / name, 60, **settings), 0.5))
    assert warning.startswith(f"{name} ends early, though not its file: {len(frames)} frames")
    assert ("of 2.4 s" in warning) == (name == "a.mxf")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", H264),
        ("f.mp4", {**H264, "g": 5, "container": FRAGMENTS}),
        ("a.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("a.mkv", H264),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("a.flv", H264),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.mxf", MXF),
        ("a.ts", H264),
        ("a.mpg", {"codec": "mpeg2video", "fps": 25}),
    ],
)
def test_a_sound_that_is_longer_than_its_pictures_is_no_loss(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    _, frames, warnings = read(clip(tmp_path / name, 30, sound_s=9, **settings))
    assert (len(frames), warnings) == (30, ())


@pytest.mark.parametrize("name", ["a.mp4", "f.mp4", "a.mkv", "a.flv"])
def test_a_last_picture_that_is_shown_for_long_is_no_loss(tmp_path: Path, name: str) -> None:
    container = FRAGMENTS if name == "f.mp4" else {}
    path = clip(tmp_path / name, 3, times_ms=[0, 100, 9000], container=container, **H264)
    assert read(path)[0][-1] == pytest.approx(9, abs=0.01)
    assert read(path)[2] == ()


def test_recordings_joined_to_one_follow_each_other_whatever_their_clocks_say(tmp_path: Path) -> None:
    """The second one's clock is the same, is far ahead or is behind that of the first."""
    parts = [
        clip(tmp_path / f"{at}.ts", 6, times_ms=[at + 100 * n for n in range(6)], **H264).read_bytes()
        for at in (0, 900_000)
    ]
    for first, second in ((0, 0), (0, 1), (1, 0)):
        path = tmp_path / "joined.ts"
        path.write_bytes(parts[first] + parts[second])
        times_s, _, warnings = read(path)
        assert times_s == pytest.approx([0.1 * n for n in range(12)], abs=0.002)
        assert warnings == (
            "the clock of joined.ts begins anew once: its parts follow each other without a gap",
        )


def test_a_long_time_without_frames_is_kept_and_told(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 3, times_ms=[0, 100, 3_600_100], **H264)
    times_s, _, warnings = read(path)
    assert times_s == pytest.approx([0, 0.1, 3600.1])
    assert warnings == ("a.mkv has no frames for a long time: 0.1 to 3600.1 s",)


def test_reading_goes_on_behind_damaged_frames_and_counts_them(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.avi", 60, codec="mjpeg", pixels="yuvj420p", size=(240, 320))
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 3, len(content) // 2, 97):
        content[at] ^= 255
    path.write_bytes(content)
    times_s, frames, (warning,) = read(path)
    assert len(frames) > len(by_opencv(path))
    assert times_s[-1] == pytest.approx(5.9)
    assert warning.startswith(f"a.avi is damaged: {len(frames)} frames could be read")


def test_a_file_without_its_index_is_refused_with_what_helps(tmp_path: Path) -> None:
    path = cut(clip(tmp_path / "a.mp4"), 0.5)
    with pytest.raises(InputError, match=r"a\.mp4 has no index \(moov\), .*; copy it again"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"no video", "cannot be opened as a video"), (bytes(5000), "cannot be opened")],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=words):
        VideoReader(tmp_path / "a.mp4")
    assert not is_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_told_with_a_cover_too(tmp_path: Path, cover: bool) -> None:
    path = sound(tmp_path / "a.m4a", cover)
    assert bool(by_opencv(path)) == cover
    with pytest.raises(InputError, match=r"a\.m4a is no video: it holds sound alone"):
        VideoReader(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.mp4 cannot be read \(No such file"):
        VideoReader(tmp_path / "absent.mp4")


class Disk(io.FileIO):
    """It can be read up to byte `sound`."""

    sound = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.sound:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(min(size or 0, self.sound - self.tell())) or b""


@pytest.mark.parametrize("sound", [0, 100_000])
def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: int) -> None:
    path = clip(tmp_path / "a.mkv", 60, codec="ffv1", size=(120, 160))
    assert path.stat().st_size > 200_000
    monkeypatch.setattr("media.videos.io.FileIO", Disk)
    monkeypatch.setattr(Disk, "sound", sound)
    if not sound:
        with pytest.raises(InputError, match=r"a\.mkv cannot be read \(Input/output error\)"):
            VideoReader(path)
        return
    _, frames, (warning,) = read(path)
    assert 0 < len(frames) < 60
    assert warning.startswith(f"a.mkv cannot be read to its end (Input/output error): {len(frames)} frames")


@pytest.mark.parametrize(
    "name",
    [
        "http:%2541.mp4",
        "concat:a|b.mp4",
        "-i.mp4",
        "%03d.mp4",
        "rtsp:x",
        "a\nb.mp4",
        os.fsdecode(b"\xe9.mp4"),
    ],
)
def test_nothing_in_a_name_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    clip(tmp_path / "a.mp4", 2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with VideoReader(Path(name)) as reader:
        assert len(list(reader.frames())) == 2
        assert reader._container.name == "video"  # all that FFmpeg is told


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {url}\nfile {file}\n",
        "ffconcat version 1.0\nfile {file}\n",
        '<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
def test_nothing_in_a_file_opens_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        inner = clip(tmp_path / "inner.mp4", 2)
        path = tmp_path / "a.mp4"
        path.write_text(text.format(url=f"http://127.0.0.1:{port}/a.ts", file=inner.name, port=port))
        with pytest.raises(InputError, match="is a list of other files or streams"):
            VideoReader(path)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(("factor", "start"), [(1, 29000), (257, 0)])
def test_grey_of_16_bits_is_scaled_as_its_first_frame_needs(tmp_path: Path, factor: int, start: int) -> None:
    grey = np.tile(np.arange(256, dtype=np.uint16), (32, 1))
    path = clip(tmp_path / "a.mkv", 2, codec="ffv1", pixels="gray16le", values=grey * factor + start)
    _, frames, warnings = read(path)
    assert all(np.abs(frame - grey[..., None].astype(int)).max() <= 1 for frame in frames)
    told = "values that are shown as black to white: a.mkv (29000 to 29255, by its first frame)"
    assert warnings == ((told,) if start else ())


def test_the_first_pictures_are_right(tmp_path: Path) -> None:
    _, frames, _ = read(clip(tmp_path / "a.mov", 3, codec="png", pixels="rgb24"))
    assert all(np.array_equal(frame, picture(number)) for number, frame in enumerate(frames))
