"""What `--source` names: the disk first, then cameras and streams; refusals repeat no password."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runtime.frames.cameras import CameraOptions, source_for
from runtime.frames.source_kinds import STREAMS, Device, Place, Sensor, place_of
from stages.address import Address
from stages.errors import InputError
from tests.support.clips import clip
from tests.support.edge import write_photo

CHARACTER_DEVICE = "/dev/null"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["0", "2024", "rtsp:x", "csi:", "http:", "file:a", "~", " ", "a@b", "-i", "%d.png"]
)
def test_a_name_that_is_on_the_disk_is_a_file(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    assert place_of(name) == Path(name)


def test_blanks_around_a_name_do_not_matter(folder: Path) -> None:
    (folder / "a.jpg").mkdir()
    assert place_of(" a.jpg ") == Path("a.jpg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Device("/dev/video0")),
        ("/dev/video93", Device("/dev/video93")),
        ("/dev/v4l/by-id/usb-absent", Device("/dev/v4l/by-id/usb-absent")),
        ("v4l2:///dev/video1", Device("/dev/video1")),
        ("csi://1", Sensor(1)),
        *((f"{scheme}://cam/x", Address(f"{scheme}://cam/x")) for scheme in STREAMS),
        (" RTSP://u:P@Cam/X ", Address("rtsp://u:P@Cam/X")),
    ],
)
def test_cameras_and_streams_are_known(folder: Path, text: str, expected: Place) -> None:
    assert place_of(text) == expected


def test_a_character_device_and_a_link_to_one_are_cameras(folder: Path) -> None:
    (folder / "by-id").symlink_to(CHARACTER_DEVICE)
    assert place_of("by-id") == Device(str(folder / "by-id"))
    assert place_of(CHARACTER_DEVICE) == Device(CHARACTER_DEVICE)
    with pytest.raises(InputError, match=r"by-id gives no picture; "):
        source_for("by-id", CameraOptions()).__enter__()


@pytest.mark.parametrize("url", ["file:{}", "file://{}", "file://localhost{}", "FILE:{}"])
def test_file_urls_are_files(folder: Path, url: str) -> None:
    path = write_photo(folder / "a b%é.png")
    quoted = str(path).replace("%", "%25").replace(" ", "%20").replace("é", "%C3%A9")
    assert place_of(url.format(quoted)) == path
    assert source_for(url.format(quoted), CameraOptions()).kind == "picture"


def test_the_home_folder_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    write_photo(folder / "a.png")
    assert place_of("~/a.png") == folder / "a.png"


def test_what_is_on_the_disk_and_can_be_no_source_is_told(folder: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(InputError, match="source pipe is a pipe; give"):
        place_of("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match="source socket is a socket; give"):
            place_of("socket")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the source is empty"),
        ("absent.mp4", "source absent.mp4 does not exist; give a camera"),
        ("x" * 300, "x does not exist"),
        ("a\0b", "does not exist"),
        ("12345", "source 12345 does not exist"),
        ("~nobody-at-all/a.png", "does not exist"),
        ("file:///absent.mp4", "source /absent.mp4 does not exist"),
        ("file:///cam?token=s3cret", r"source /cam\?… does not exist"),
        ("seq/%04d.jpg", "is a pattern, and no file is named so; give the folder of the pictures"),
        ("*.jpg", r"source \*.jpg is a pattern"),
        ("-", "standard input is not read"),
        ("passport.jpg", "source passport.jpg does not exist"),
        ("192.168.1.2/cam?user=admin&pw=s3cret", "source 192.168.1.2/… does not exist"),
        ("rtsp//192.168.1.2/user=admin_psw=s3cret_x", "source rtsp… does not exist"),
        ("wyze://s3cret", "source wyze://…: wyze is no kind of stream"),
        ("file://elsewhere/a.mp4", "is on another machine"),
        ("csi://\u00b2", "expected like csi://0"),
        (
            "srt://u:s3cret@cam:9",
            "source srt://cam:9/…: srt is no kind of stream; known are rtsp, rtsps, http",
        ),
        ("concat:s3cret:a@b|c", "source … does not exist"),
        ("u:s3cret@cam/x", "source … does not exist"),
        ("v4l2src ! http://u:s3cret@a", "is a pipeline of GStreamer"),
        ("rtsp://u:s3cret\n@cam/x", "source rtsp://cam/… has characters that no URL has"),
        ("rtsp://u:s3cret\udce9@cam/x", "source rtsp://cam/… has characters that no URL has"),
        ("\udce9.mp4", r"source \?.mp4 does not exist"),
    ],
)
def test_what_names_nothing_is_refused_without_its_password(folder: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        source_for(text, CameraOptions())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["film.unknown", "film", "http:film", os.fsdecode(b"film\xe9.mp4")])
def test_a_video_is_known_by_its_content(folder: Path, name: str) -> None:
    clip(folder / "a.mp4", 2).rename(name)
    source = source_for(name, CameraOptions())
    assert (source.kind, len(list(source))) == ("video", 2)


def test_a_picture_is_known_by_its_content(folder: Path) -> None:
    write_photo(folder / "a.png").rename("a.unknown")
    assert source_for("a.unknown", CameraOptions()).kind == "picture"
    (folder / "b.unknown").write_text("no picture")
    with pytest.raises(InputError, match=r"b\.unknown is no picture and no video: it is of an unknown kind"):
        source_for("b.unknown", CameraOptions())
