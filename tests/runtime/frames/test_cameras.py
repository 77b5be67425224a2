"""Live sources: the newest frame, a camera that is unplugged and comes back, and what cannot be one."""

from __future__ import annotations

import itertools
import queue
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from runtime.frames.cameras import CameraOptions, _stream_advice, source_for
from runtime.frames.capturing import tell_errors_alone
from runtime.frames.live_source import LiveSource
from runtime.frames.sources import Frame, Source, VideoSource
from stages.address import Address
from stages.errors import InputError
from tests.runtime.frames.test_sources import film
from tests.support.cameras import Camera, scenery
from tests.support.clips import clip, cut
from tests.support.edge import write_photo
from tests.support.streams import network_camera, proxy


def test_the_log_level_is_set_in_either_series_of_opencv() -> None:
    """Debian's 4.6 lacks cv2.utils.logging, and 5.0 lacks cv2.setLogLevel; JetPack has 4.8."""
    levels: list[int] = []
    functions = SimpleNamespace(setLogLevel=levels.append)
    tell_errors_alone(SimpleNamespace(utils=SimpleNamespace(logging=functions)))
    tell_errors_alone(SimpleNamespace(utils=SimpleNamespace(), setLogLevel=levels.append))
    assert levels == [cv2.utils.logging.LOG_LEVEL_ERROR] * 2


def take(source: Source, number: int) -> list[Frame]:
    return list(itertools.islice(source, number))


def test_opencvs_pictures_become_rgb() -> None:
    """From a real capture, as of every camera and stream."""
    with network_camera() as camera, source_for(camera.url, CameraOptions()) as source:
        (found,) = take(source, 1)
    assert found.pixels.flags.c_contiguous
    assert np.abs(found.pixels.astype(int) - scenery(0)).mean() < 15


def test_frames_are_rgb_and_numbered_as_they_are_handed_on() -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source() as source:
        assert source.sizes() == {(360, 640)}
        frames = iter(source)
        for number in range(3):
            if number:
                camera.show(scenery(number))
            frame = next(frames)
            assert frame.number == number
            assert np.array_equal(frame.pixels, scenery(number))
            assert frame.captured_s is not None
            assert frame.time_s >= 0
        assert source.dropped == 0
        camera.unplug()


def test_the_newest_frame_is_kept_and_the_others_are_counted() -> None:
    camera = Camera()
    for number in range(5):
        camera.show(scenery(number))
    with camera.source() as source:
        camera.wait_until_read(5)
        (frame,) = take(source, 1)
        assert np.array_equal(frame.pixels, scenery(4))
        assert (frame.number, source.dropped) == (0, 4)
        camera.unplug()


def test_a_camera_that_is_unplugged_is_opened_again_when_it_is_back() -> None:
    camera = Camera()
    said: list[str] = []
    camera.show(scenery(0))
    with camera.source(say=said.append) as source:
        frames = iter(source)
        next(frames)
        camera.unplug()
        camera.wait_until_tried()
        assert source.trouble == "test camera gives no picture any more; it is opened again when it is back"
        camera.plugged = True
        camera.show(scenery(1))
        again = next(frames)
        assert np.array_equal(again.pixels, scenery(1))
        assert again.number == 1
        assert source.trouble is None
        assert said == [
            "test camera gives no picture any more; it is opened again when it is back",
            "test camera is back",
        ]
        camera.unplug()
    assert camera.released >= 1


def test_an_error_of_the_reading_thread_ends_the_iteration_in_a_sentence() -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source() as source:
        frames = iter(source)
        next(frames)
        camera.fail(RuntimeError("the driver is gone"))
        with pytest.raises(InputError, match=r"test camera cannot be read any more .*: the driver is gone"):
            next(frames)
    assert camera.released == 1


def test_stopping_ends_an_iteration_that_waits_and_releases_the_camera() -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source() as source:
        frames = iter(source)
        next(frames)
        source.stop()
        assert next(frames, None) is None
        camera.unplug()  # its last read returns
        source._thread.join(timeout=60)
        assert not source._thread.is_alive()
    assert camera.released == 1


def test_leaving_waits_for_a_read_that_is_under_way() -> None:
    """Or Python would end while the thread is inside OpenCV, and abort."""
    camera = Camera()
    camera.show(scenery(0))
    with camera.source() as source:
        camera.wait_until_read(1)
        camera.unplug()  # its last read returns, if it is waited for
    assert not source._thread.is_alive()
    assert camera.released == 1


def test_stopping_ends_the_wait_for_a_camera_that_is_gone() -> None:
    camera = Camera()
    camera.show(scenery(0))
    source = LiveSource("test camera", camera.open, retry_s=(3600,))
    with source:
        frames = iter(source)
        next(frames)
        camera.unplug()
        source.stop()
        assert next(frames, None) is None
    source._thread.join(timeout=60)
    assert not source._thread.is_alive()


def test_a_camera_that_changes_its_size_loses_frames_with_a_reason() -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source() as source:
        frames = iter(source)
        next(frames)
        camera.show(scenery(0, "4:3"))
        frame = next(frames)
        assert frame.error == (
            "test camera now has 480 x 360 pixels, and began with 640 x 360; start again to use the new size"
        )
        assert frame.pixels.size == 0
        camera.show(scenery(1))
        assert next(frames).error is None
        camera.unplug()


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_rotation_is_clockwise(degrees: int, turns: int) -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source(rotate=degrees) as source:
        (frame,) = take(source, 1)
        assert np.array_equal(frame.pixels, np.rot90(scenery(0), turns))
        assert source.sizes() == {frame.pixels.shape[:2]}
        camera.unplug()


def test_a_video_can_be_played_as_if_it_were_a_camera(tmp_path: Path) -> None:
    path = film(tmp_path / "pan.mp4", 5)
    with source_for(str(path), CameraOptions(realtime=True)) as source:
        assert source.live
        frames = list(source)
    assert len(frames) + source.dropped == 5
    assert [frame.number for frame in frames] == list(range(len(frames)))
    last = list(VideoSource(path))[-1]
    assert np.array_equal(frames[-1].pixels, last.pixels)
    assert frames[-1].time_s >= 0.3 or len(frames) == 1  # ten frames a second, never sooner
    assert source.kind == "video"


def test_a_video_is_played_at_its_own_times(tmp_path: Path) -> None:
    """Its rate varies: at the average one, the second frame would come after 0.2 s."""
    path = clip(tmp_path / "a.mkv", 3, times_ms=[0, 380, 400])
    with source_for(str(path), CameraOptions(realtime=True)) as source:
        frames = list(source)
    came_s = [frame.time_s for frame in frames]
    assert len(frames) + source.dropped == 3
    assert came_s[1] >= 0.37
    assert came_s[-1] >= 0.39


def test_stopping_ends_the_wait_for_a_frame_that_is_due_much_later(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 3, times_ms=[0, 40, 3_600_000])
    with source_for(str(path), CameraOptions(realtime=True)) as source:
        assert isinstance(source, LiveSource)
        next(itertools.islice(source, 1, None))
    assert not source._thread.is_alive()


def test_a_played_video_that_ends_early_is_told(tmp_path: Path) -> None:
    path = cut(clip(tmp_path / "a.mp4", 60, fps=1000, container={"movflags": "faststart"}), 0.7)
    with source_for(str(path), CameraOptions(realtime=True)) as source:
        list(source)
    (warning,) = source.warnings
    assert warning.startswith("a.mp4 ends early: ")


def test_files_are_turned(tmp_path: Path) -> None:
    path = film(tmp_path / "pan.mp4", 2)
    for realtime in (False, True):
        with source_for(str(path), CameraOptions(rotate=90, realtime=realtime)) as source:
            assert source.sizes() == {(64, 48)}


def test_a_camera_that_comes_and_goes_is_told_once_and_opened_with_growing_pauses() -> None:
    camera = Camera()
    said: list[str] = []
    for number in range(4):
        camera.show(scenery(number))
        camera.show(scenery(number))
        camera.hiccup()
    with camera.source(say=said.append, steady_s=3600, retry_s=(0.0, 0.0, 3600)) as source:
        deadline_s = time.monotonic() + 60
        while camera.released < 3 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert source.trouble == "test camera gives no picture any more; it is opened again when it is back"
    assert camera.opened == 3  # the third pause is an hour
    assert said == [source.trouble]


def test_an_address_that_answers_with_one_picture_is_asked_again_and_again() -> None:
    said: list[str] = []
    with (
        network_camera() as camera,
        source_for(camera.snapshot_url, CameraOptions(fps=20), said.append) as source,
    ):
        frames = take(source, 4)
        assert camera.answered >= 4
        assert source.trouble is None
        assert source.kind == "stream"
        url = f"http://127.0.0.1:{camera.server_port}/…"
    assert all(frame.error is None for frame in frames)
    assert not np.array_equal(frames[0].pixels, frames[3].pixels)
    assert said == [
        f"{url} answers with one picture; it is asked again every 0.05 s (--camera-fps says how often)"
    ]


def test_a_stream_is_reached_without_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as stranger, network_camera() as camera:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, stranger.url)
        with source_for(camera.url, CameraOptions()) as source:
            assert len(take(source, 2)) == 2
        assert stranger.asked == []


def test_a_proxy_that_is_asked_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as wanted, network_camera() as camera:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(InputError, match="gives no picture"):
            source_for(camera.url, CameraOptions(proxy=Address(wanted.url))).__enter__()
        assert [urlsplit(asked).path for asked in wanted.asked] == ["/video.mjpg"]
        with pytest.raises(InputError, match=r"--camera-proxy is for http, .*; rtsp has no proxy"):
            source_for("rtsp://127.0.0.1:1/a", CameraOptions(proxy=Address(wanted.url)))


def test_a_network_stream_that_breaks_off_is_opened_again() -> None:
    """Through OpenCV, from a real HTTP server on loopback."""
    lines: queue.Queue[str] = queue.Queue()
    with (
        network_camera() as camera,
        source_for(camera.url, CameraOptions(), lines.put, steady_s=0.1) as source,
    ):
        assert source.sizes() == {(360, 640)}
        frames = iter(source)
        first = next(frames)
        assert np.abs(first.pixels.astype(int) - scenery(0)).mean() < 40
        camera.streaming.clear()
        told = lines.get(timeout=60)
        assert told.startswith(f"http://127.0.0.1:{camera.server_port}/… gives no picture any more")
        camera.streaming.set()
        again = next(itertools.islice(frames, 3, None))
        assert lines.get(timeout=60).endswith("is back")
        assert again.error is None


def test_files_stay_files(tmp_path: Path) -> None:
    source = source_for(str(write_photo(tmp_path / "7.png")), CameraOptions())
    assert not source.live
    with pytest.raises(InputError, match="--realtime plays a video file"):
        source_for(str(tmp_path / "7.png"), CameraOptions(realtime=True))


def test_pictures_of_a_folder_come_as_many_a_second_as_asked(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        write_photo(tmp_path / name)
    frames = source_for(str(tmp_path), CameraOptions(picture_fps=10))
    assert [frame.time_s for frame in frames] == [0, 0.1]


@pytest.mark.parametrize("text", ["93", "/dev/video93"])
def test_a_camera_that_is_not_there_is_told_with_those_that_are(text: str) -> None:
    """Really tried, on this machine: none of them can be opened here."""
    with pytest.raises(InputError, match=r"gives no picture; .*/dev/video"):
        source_for(text, CameraOptions(size=(480, 640), fps=30)).__enter__()


def test_a_stream_that_is_not_there_is_told_once_without_its_password(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        InputError, match=r"rtsp://127.0.0.1:1/… gives no picture; check its address"
    ) as caught:
        source_for("rtsp://user:secret@127.0.0.1:1/a", CameraOptions()).__enter__()
    assert "secret" not in str(caught.value)
    assert capfd.readouterr().err == ""  # of OpenCV and FFmpeg


def test_a_csi_camera_off_a_jetson_is_told() -> None:
    with pytest.raises(InputError, match=r"csi://0 gives no picture; .* and this machine is none"):
        source_for("csi://0", CameraOptions(size=(480, 640), fps=30)).__enter__()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("csi://front", "expected like csi://0"),
        ("csi://\u00b2", "expected like csi://0"),
        ("absent.mp4", "does not exist"),
    ],
)
def test_what_is_no_source_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        source_for(text, CameraOptions())


def test_rotations_are_right_angles() -> None:
    with pytest.raises(InputError, match="45 degrees is no turn, expected one of 0, 90"):
        CameraOptions(rotate=45)


def test_a_camera_that_gives_another_size_than_asked_for_warns() -> None:
    camera = Camera()
    camera.show(scenery(0))
    with camera.source(asked=(720, 1280)) as source:
        assert source.warnings == ("test camera gives 640 x 360 pixels, not the 1280 x 720 it was asked for",)
        camera.unplug()
    camera = Camera()
    camera.show(scenery(0))
    with camera.source(asked=(360, 640), rotate=90) as source:
        assert source.warnings == ()
        camera.unplug()


def test_a_stream_that_falls_silent_after_one_picture_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.frames.live_source.SILENT_S", 0)
    camera = Camera()
    said: list[str] = []
    camera.show(scenery(0))
    with camera.source(say=said.append, poll_s=0.01):
        camera.unplug()
        camera.wait_until_tried()
    assert said == ["test camera gives no picture any more; it is opened again when it is back"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{}/x", "not of a page that shows one; check also its address, path, user"),
        ("rtmp://127.0.0.1:{}/x", "(rtmp://USER:PASSWORD@HOST/PATH, with"),
    ],
)
def test_the_advice_fits_the_kind_of_stream(url: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError) as caught:
        source_for(url.format(port), CameraOptions()).__enter__()
    assert words in str(caught.value)


def test_the_advice_for_packets_names_no_password() -> None:
    assert _stream_advice("rtp") == _stream_advice("udp")
    assert "PASSWORD" not in _stream_advice("udp")
    assert "something sends to this address" in _stream_advice("udp")
