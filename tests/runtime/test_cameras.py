"""Live sources: the newest frame, a camera that is unplugged and comes back, and what cannot be one."""

from __future__ import annotations

import itertools
import queue
from pathlib import Path

import numpy as np
import pytest

from runtime.cameras import (
    CameraOptions,
    LiveSource,
    csi_pipeline,
    source_for,
    stream_pipeline,
)
from runtime.sources import Frame, VideoSource
from stages.errors import InputError
from tests.cameras import Camera, scenery
from tests.edge import write_photo
from tests.runtime.test_sources import film
from tests.streams import network_camera


def take(source: LiveSource, number: int) -> list[Frame]:
    return list(itertools.islice(source, number))


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
            "test camera now sends 480 x 360 pixels, and began with 640 x 360; "
            "start again to use the new size"
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


def test_a_network_stream_that_breaks_off_is_opened_again() -> None:
    """Through OpenCV, from a real HTTP server on loopback."""
    lines: queue.Queue[str] = queue.Queue()
    with network_camera() as camera, source_for(camera.url, CameraOptions(), lines.put) as source:
        assert source.sizes() == {(360, 640)}
        frames = iter(source)
        first = next(frames)
        assert np.abs(first.pixels.astype(int) - scenery(0)).mean() < 40
        camera.streaming.clear()
        told = lines.get(timeout=60)
        assert told.startswith(
            f"http://***@127.0.0.1:{camera.server_port}/video.mjpg gives no picture any more"
        )
        camera.streaming.set()
        again = next(itertools.islice(frames, 3, None))
        assert lines.get(timeout=60).endswith("is back")
        assert again.error is None


def test_files_stay_files(tmp_path: Path) -> None:
    source = source_for(str(write_photo(tmp_path / "7.png")), CameraOptions())
    assert not source.live
    with pytest.raises(InputError, match="--realtime plays a video file"):
        source_for(str(tmp_path / "7.png"), CameraOptions(realtime=True))


@pytest.mark.parametrize("text", ["93", "/dev/video93", "csi://0"])
def test_a_camera_that_is_not_there_is_told_with_those_that_are(text: str) -> None:
    """Really tried, on this machine: none of them can be opened here."""
    with pytest.raises(InputError, match=r"gives no picture; .*/dev/video"):
        source_for(text, CameraOptions(size=(640, 480), fps=30)).__enter__()


def test_a_stream_that_is_not_there_is_told_once_without_its_password(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        InputError, match=r"//\*\*\*@127.0.0.1:1/a gives no picture; check its address"
    ) as caught:
        source_for("rtsp://user:secret@127.0.0.1:1/a", CameraOptions()).__enter__()
    assert "secret" not in str(caught.value)
    assert capfd.readouterr().err == ""  # of OpenCV and FFmpeg


@pytest.mark.parametrize(
    ("text", "words"), [("csi://front", "expected like csi://0"), ("absent.mp4", "does not exist")]
)
def test_what_is_no_source_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        source_for(text, CameraOptions())


def test_rotations_are_right_angles() -> None:
    with pytest.raises(InputError, match=r"--rotate 45: expected 0, 90, 180, 270"):
        CameraOptions(rotate=45)


def test_pipelines_of_a_jetson_keep_the_newest_frame_and_end_in_bgr() -> None:
    """As text: whether they run can only be seen on a Jetson."""
    pipeline = csi_pipeline(1, CameraOptions(size=(1920, 1080), fps=25))
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080"
    )
    assert "framerate=25/1" in pipeline
    stream = stream_pipeline("rtsp://camera/main?profile=1&quality=2")
    assert 'uridecodebin uri="rtsp://camera/main?profile=1&quality=2" !' in stream
    for each in (pipeline, stream):
        assert "format=BGR ! appsink drop=true max-buffers=1" in each
        assert each.index("nvvidconv") < each.index("format=BGRx")


@pytest.mark.parametrize("url", ['rtsp://a/" ! filesink location=x', "rtsp://a/b c", "rtsp://a/\n"])
def test_a_url_cannot_add_to_a_pipeline(url: str) -> None:
    with pytest.raises(InputError, match="is no URL"):
        stream_pipeline(url)
