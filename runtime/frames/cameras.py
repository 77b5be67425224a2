"""Cameras and network streams through OpenCV, and files played at their own speed: what `--source` opens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from media.videos import VideoReader
from runtime.frames.gstreamer import (
    JetsonVideo,
    csi_pipeline,
    open_pipeline,
    stream_pipeline,
    usb_pipeline,
)
from runtime.frames.live_source import STEADY_S, TURNS, Capture, LiveSource
from runtime.frames.source_kinds import Device, Sensor, place_of
from runtime.frames.sources import Source, TurnedSource, open_source
from stages.address import Address
from stages.errors import InputError, printable
from stages.tensors import Pixels

POLL_S = 1.0  # between two pictures of an address that answers with one
_STREAM_MS = 5000  # a network stream that is silent for so long has failed
_PROXIED = ("http", "https", "rtmpt", "rtmps", "rtsps")  # what FFmpeg sends through an HTTP proxy
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_LOGS = "with OPENCV_FFMPEG_LOGLEVEL=24 in the environment FFmpeg says why"
_SIGNED_IN = (
    "check its address, path, user and password ({scheme}://USER:PASSWORD@HOST/PATH, with / and @ in a "
    "password written as %2F and %40), and whether a player shows it"
)
_STREAM_ADVICE = {
    "http": "it has to be the address of a stream or of a picture itself, not of a page that shows one; "
    + _SIGNED_IN.replace("check its", "check also its"),
    "udp": "check that something sends to this address and port, and that no firewall keeps it away",
}
_SAME_ADVICE = {"https": "http", "rtp": "udp"}


@dataclass(frozen=True)
class CameraOptions:
    """What to ask of a camera. `size` is (height, width) in pixels; `rotate` is degrees clockwise.

    `realtime` plays a video file as if it were a camera; `picture_fps` is how many pictures of a folder are a
    second. `proxy` is the HTTP proxy that streams come through.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    rotate: int = 0
    realtime: bool = False
    proxy: Address | None = None
    picture_fps: float | None = None

    def __post_init__(self) -> None:
        if self.rotate not in (0, *TURNS):
            raise InputError(
                f"{self.rotate} degrees is no turn, expected one of 0, {', '.join(map(str, TURNS))}"
            )


def tell_errors_alone(opencv: Any) -> None:
    """Sets OpenCV's log level, by the function in `utils.logging` or, as in OpenCV 4.6, at the top."""
    getattr(opencv.utils, "logging", opencv).setLogLevel(2)  # cv::utils::logging::LOG_LEVEL_ERROR


# What OpenCV and FFmpeg warn of they would say again at every attempt; here it is told once.
tell_errors_alone(cv2)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class OpenCvCapture(Capture):
    """A camera as OpenCV has it, in BGR."""

    def __init__(self, opencv: cv2.VideoCapture) -> None:
        self._opencv = opencv

    def read(self) -> Pixels | None:
        ok, image = self._opencv.read()
        return np.ascontiguousarray(image[..., ::-1], np.uint8) if ok else None

    def release(self) -> None:
        self._opencv.release()


class PacedFile(Capture):
    """A video file as a camera: each frame is due by the file's own times."""

    def __init__(self, path: Path) -> None:
        self._reader = VideoReader(path)
        self._frames = self._reader.frames()
        self._started_s = time.perf_counter()

    def read(self) -> Pixels | None:
        time_s, image = next(self._frames, (0.0, None))
        self.due_s = self._started_s + time_s
        self.warnings = self._reader.warnings
        return image

    def release(self) -> None:
        self._reader.close()


def source_for(
    text: str,
    camera: CameraOptions,
    say: Callable[[str], None] = lambda text: None,
    *,
    steady_s: float = STEADY_S,
) -> Source:
    """The source that `--source` names: files, a camera's number or device, csi://N, or a stream's URL.

    `steady_s` is as in LiveSource. Raises InputError for files that cannot be used; cameras are tried when
    the source is entered.
    """
    place = place_of(text)
    if isinstance(place, Path):
        return _files(place, camera)
    video = JetsonVideo.here()
    live = partial(LiveSource, rotate=camera.rotate, fps=camera.fps, say=say, steady_s=steady_s)
    if isinstance(place, Sensor):
        opening = partial(_open_csi, place.number, camera, video)
        advice = partial(video.csi_advice, camera.size, camera.fps)
        return live(f"csi://{place.number}", opening, asked=camera.size, advice=advice)
    if isinstance(place, Device):
        opening = partial(_open_usb, place, camera, video)
        return live(text, opening, asked=camera.size, advice=_device_advice)
    set_proxy(place, camera.proxy)
    poll_s = (1 / camera.fps if camera.fps else POLL_S) if place.scheme in ("http", "https") else None
    opening = partial(_open_stream, place, video)
    return live(
        str(place), opening, kind="stream", advice=partial(_stream_advice, place.scheme), poll_s=poll_s
    )


def _stream_advice(scheme: str) -> str:
    advice = _STREAM_ADVICE.get(_SAME_ADVICE.get(scheme, scheme), _SIGNED_IN)
    return f"{advice.format(scheme=scheme)}; {_LOGS}"


def _files(path: Path, camera: CameraOptions) -> Source:
    source = open_source(path, camera.picture_fps or 1.0)
    if not camera.realtime:
        return TurnedSource(source, camera.rotate) if camera.rotate else source
    if source.kind != "video":
        raise InputError(f"--realtime plays a video file; {path} is not one")
    played = LiveSource(
        printable(path),
        lambda: PacedFile(path),
        rotate=camera.rotate,
        fps=source.fps,
        endless=False,
        kind=source.kind,
    )
    played.files = source.files
    return played


def set_proxy(address: Address, proxy: Address | None) -> None:
    """Takes the proxies of the environment away from FFmpeg and GStreamer, which would send a camera's
    pictures through them, and sets the one that was asked for. They take it from the process alone.

    Raises InputError where the stream cannot come through a proxy.
    """
    for name in _PROXY_VARIABLES:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    if proxy is None:
        return
    if address.scheme not in _PROXIED:
        raise InputError(
            f"--camera-proxy is for {', '.join(_PROXIED)}; {address.scheme} has no proxy, leave it out"
        )
    os.environ["http_proxy"] = os.environ["https_proxy"] = proxy.secret


def _open_csi(sensor: int, camera: CameraOptions, video: JetsonVideo) -> Capture | None:
    return _pipeline(csi_pipeline(sensor, camera.size, camera.fps)) if video.takes_csi else None


def _open_usb(device: Device, camera: CameraOptions, video: JetsonVideo) -> Capture | None:
    """A USB camera, decoded in hardware where that can be; a camera without JPEG, or whose JPEG the decoder
    does not take, as on any other machine.

    A link is followed each time: a camera that was plugged in again may have another number.
    """
    path = os.path.realpath(device.path)
    match = re.fullmatch("/dev/video([0-9]+)", path)
    if match is None:
        return _open_device(path, camera)
    number = int(match[1])
    if video.decodes and (capture := _pipeline(usb_pipeline(number, camera.size, camera.fps))):
        return capture
    return _open_device(number, camera)


def _open_device(device: int | str, camera: CameraOptions) -> Capture | None:
    """A USB camera; MJPG is what most of them need for more than a few frames a second at full size."""
    settings = [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")]
    if camera.size:
        height, width = camera.size
        settings += [cv2.CAP_PROP_FRAME_WIDTH, width, cv2.CAP_PROP_FRAME_HEIGHT, height]
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    for name, value in zip(settings[::2], settings[1::2], strict=True):
        capture.set(name, value)  # a camera that cannot goes on with what it has
    if camera.fps:
        capture.set(cv2.CAP_PROP_FPS, camera.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return _opened(capture)


def _open_stream(address: Address, video: JetsonVideo) -> Capture | None:
    """A network stream, decoded in hardware where that can be."""
    if video.decodes and (capture := _pipeline(stream_pipeline(address))):
        return capture
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _STREAM_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _STREAM_MS]
    return _opened(cv2.VideoCapture(address.secret, cv2.CAP_FFMPEG, limits))


def _pipeline(text: str) -> Capture | None:
    capture = open_pipeline(text)
    return None if capture is None else OpenCvCapture(capture)


def _opened(capture: cv2.VideoCapture) -> Capture | None:
    return OpenCvCapture(capture) if capture.isOpened() else None


def _device_advice() -> str:
    found = sorted(str(path) for path in (*Path("/dev").glob("video*"), *Path("/dev/v4l/by-id").glob("*")))
    listed = f"cameras here: {', '.join(found)}" if found else "this machine has no /dev/video*"
    return f"{listed}; --source also takes a stream's URL, csi://0, videos and pictures"
