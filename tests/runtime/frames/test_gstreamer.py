"""A Jetson's chains of GStreamer: as text, and run with stand-ins for NVIDIA's elements.

Whether they run with NVIDIA's own can only be seen on a Jetson.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.frames.cameras import _stream_attempts, environment_of
from runtime.frames.capture_process import CaptureProcess
from runtime.frames.gstreamer import (
    JetsonVideo,
    csi_pipeline,
    has_gstreamer,
    has_limits,
    open_pipeline,
    stream_pipeline,
    usb_pipeline,
)
from stages.address import Address
from stages.errors import InputError
from tests.support.samples import lines_of
from tests.support.streams import network_camera

LAUNCH = shutil.which("gst-launch-1.0")
# What only NVIDIA has, by what does the same in software. The camera is one that plays three pictures.
CAMERA = "videotestsrc num-buffers=3"
STAND_INS = {
    "nvarguscamerasrc sensor-id=0": CAMERA,
    "v4l2src device=/dev/video0": f"{CAMERA} ! video/x-raw,width=640,height=480,framerate=30/1 ! jpegenc",
    "(memory:NVMM)": "",
    "nvv4l2decoder mjpeg=1": "jpegdec",
    "nvvidconv": "videoconvert",
    "appsink drop=true max-buffers=1": "fakesink",  # nobody takes pictures out here: it would wait for that
}
NEWEST = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


def test_a_csi_camera_is_asked_for_a_mode_and_converted_in_hardware() -> None:
    assert csi_pipeline(1, (1080, 1920), 25) == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=25/1 ! "
        f"nvvidconv ! video/x-raw,format=BGRx ! {NEWEST}"
    )
    assert "width=1280,height=720,framerate=30/1" in csi_pipeline(0)


def test_jpeg_of_a_usb_camera_is_decoded_and_converted_in_hardware() -> None:
    assert usb_pipeline(2, (480, 640), 30) == (
        "v4l2src device=/dev/video2 ! image/jpeg,width=640,height=480,framerate=30/1 ! "
        f"nvv4l2decoder mjpeg=1 ! nvvidconv ! video/x-raw,format=BGRx ! {NEWEST}"
    )
    assert "! image/jpeg ! nvv4l2decoder" in usb_pipeline(2)  # the camera's own size


def test_a_stream_is_converted_in_hardware() -> None:
    assert stream_pipeline(Address("rtsp://camera/main?profile=1&quality=2")) == (
        'uridecodebin uri="rtsp://camera/main?profile=1&quality=2" ! '
        f"nvvidconv ! video/x-raw,format=BGRx ! {NEWEST}"
    )


def test_no_chain_needs_an_encoder() -> None:
    """An Orin Nano has none."""
    for chain in (csi_pipeline(0), usb_pipeline(0), stream_pipeline(Address("rtsp://a"))):
        assert "enc" not in chain


@pytest.mark.parametrize("url", ['rtsp://a/" ! filesink location=x', "rtsp://a/b c", "rtsp://a/\n"])
def test_a_url_cannot_add_to_a_pipeline(url: str) -> None:
    with pytest.raises(InputError, match="is no URL"):
        stream_pipeline(Address(url))


def launched(chain: str) -> None:
    """Runs a chain with stand-ins until its three pictures have passed."""
    for ours, other in STAND_INS.items():
        chain = chain.replace(ours, other)
    assert "nv" not in chain.replace("convert", "")
    done = subprocess.run(
        [str(LAUNCH), "-q", *shlex.split(chain)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.gstreamer
@pytest.mark.parametrize("size", [None, (480, 640)])
def test_chains_run_with_stand_ins(size: tuple[int, int] | None) -> None:
    launched(csi_pipeline(0, size, 30))
    launched(usb_pipeline(0, size, 30))


@pytest.mark.gstreamer
def test_a_stream_runs_with_stand_ins(tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    launched(f"{CAMERA} ! jpegenc ! avimux ! filesink location={film}")
    launched(stream_pipeline(Address(film.as_uri())))


def board(folder: Path, *plugins: str, gstreamer: bool = True, daemon: bool = True) -> JetsonVideo:
    """A Jetson with these of NVIDIA's plugins."""
    for name in plugins:
        (folder / f"libgst{name}.so").touch()
    if daemon:
        (folder / "argus_socket").touch()
    return JetsonVideo(True, gstreamer, folder, folder / "argus_socket")


ALL = ("nvvidconv", "nvvideo4linux2", "nvarguscamerasrc")


def test_hardware_is_used_where_all_it_needs_is_there(tmp_path: Path) -> None:
    assert board(tmp_path, *ALL).decodes
    assert board(tmp_path).takes_csi
    assert not board(tmp_path, gstreamer=False).decodes
    assert not JetsonVideo(False, True, tmp_path).takes_csi
    assert not JetsonVideo.here().decodes  # no Jetson


@pytest.mark.parametrize(
    ("missing", "decodes", "takes_csi"), [(ALL[0], 0, 0), (ALL[1], 0, 1), (ALL[2], 1, 0)]
)
def test_each_plugin_is_needed(tmp_path: Path, missing: str, decodes: int, takes_csi: int) -> None:
    found = board(tmp_path, *(name for name in ALL if name != missing))
    assert (found.decodes, found.takes_csi) == (decodes, takes_csi)


def test_advice_names_the_first_thing_that_is_missing(tmp_path: Path) -> None:
    asked = ((720, 1280), 120.0)
    assert "this machine is none" in JetsonVideo(False, True).csi_advice(*asked)
    assert "pip uninstall opencv-python" in board(tmp_path, gstreamer=False).csi_advice(*asked)
    assert "`--runtime nvidia`" in board(tmp_path).csi_advice(*asked)
    (tmp_path / "argus_socket").unlink()
    advice = board(tmp_path, *ALL, daemon=False).csi_advice(*asked)
    assert "`sudo systemctl restart nvargus-daemon`" in advice
    assert "bind all of /tmp" in advice


def test_advice_has_the_cure_of_each_error_of_argus_and_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    video = board(tmp_path, *ALL)
    printed = "\n".join(lines_of("argus-errors.txt"))
    for error, cure in (
        ("Connecting to nvargus-daemon failed", "`sudo systemctl restart nvargus-daemon`"),
        ("No cameras available", "its cable is in"),
    ):
        assert error in printed
        advice = video.csi_advice(None, None)
        assert advice.index(error) < advice.index(cure)
    assert "no mode of 1280 x 720 pixels at 30 frames/s" in video.csi_advice(None, None)
    assert "no mode of 1920 x 1080 pixels at 120 frames/s" in video.csi_advice((1080, 1920), 120.0)


def test_a_chain_that_cannot_be_opened_is_none() -> None:
    """The OpenCV of these tests, from PyPI, has no GStreamer."""
    assert (open_pipeline(f"videotestsrc ! {NEWEST}") is None) == (not has_gstreamer())


def test_a_stream_that_hardware_does_not_take_is_decoded_as_elsewhere(tmp_path: Path) -> None:
    video = board(tmp_path, *ALL)
    assert video.decodes
    with network_camera() as camera:
        attempts = _stream_attempts(Address(camera.url), video)
        assert [attempt.kind for attempt in attempts] == ["pipeline", "stream"]
        process = CaptureProcess(lambda: attempts, environment_of(None, None))
        capture = process.open()
        assert capture is not None
        assert capture.read() is not None
        process.stop()


@pytest.mark.parametrize(
    ("version", "has"),
    [("4.6.0", False), ("4.7.0", True), ("4.8.0-dev", True), ("4.13.0", True), ("5.0.0", 1)],
)
def test_time_limits_are_given_where_opencv_takes_them(version: str, has: bool) -> None:
    assert has_limits(version) == has
