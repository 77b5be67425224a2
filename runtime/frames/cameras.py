"""Cameras and network streams through OpenCV, and files played at their own speed: what `--source` opens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2

from media.videos import VideoReader
from runtime.frames.capture_process import CaptureProcess
from runtime.frames.capturing import Attempt
from runtime.frames.gstreamer import JetsonVideo, csi_pipeline, stream_pipeline, usb_pipeline
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

Attempts: TypeAlias = Callable[[], Sequence[Attempt]]


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
    if isinstance(place, Sensor):
        attempts: Attempts = partial(_csi_attempts, place.number, camera, video)
        name = f"csi://{place.number}"
        advice: Callable[[], str] = partial(video.csi_advice, camera.size, camera.fps)
    elif isinstance(place, Device):
        attempts = partial(_device_attempts, place, camera, video)
        name, advice = text, _device_advice
    else:
        attempts = partial(_stream_attempts, place, video)
        name, advice = str(place), partial(_stream_advice, place.scheme)
    stream = place if isinstance(place, Address) else None
    process = CaptureProcess(attempts, environment_of(stream, camera.proxy))
    polled = stream is not None and stream.scheme in ("http", "https")
    return LiveSource(
        name,
        process.open,
        rotate=camera.rotate,
        fps=camera.fps,
        kind="stream" if stream else "camera",
        asked=None if stream else camera.size,
        advice=advice,
        poll_s=(1 / camera.fps if camera.fps else POLL_S) if polled else None,
        steady_s=steady_s,
        interrupt=process.stop,
        say=say,
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


def environment_of(stream: Address | None, proxy: Address | None) -> dict[str, str]:
    """The environment of the process that reads a camera. FFmpeg and GStreamer would send a camera's pictures
    through the proxies of this one's, which are left out; the one that was asked for is set.

    Raises InputError where the stream cannot come through a proxy.
    """
    found = {name: value for name, value in os.environ.items() if name.lower() not in _PROXY_VARIABLES}
    found.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # it would say the same at every attempt
    if stream is None or proxy is None:
        return found
    if stream.scheme not in _PROXIED:
        raise InputError(
            f"--camera-proxy is for {', '.join(_PROXIED)}; {stream.scheme} has no proxy, leave it out"
        )
    return {**found, "http_proxy": proxy.secret, "https_proxy": proxy.secret}


def _csi_attempts(sensor: int, camera: CameraOptions, video: JetsonVideo) -> Sequence[Attempt]:
    return [Attempt("pipeline", csi_pipeline(sensor, camera.size, camera.fps))] if video.takes_csi else []


def _device_attempts(device: Device, camera: CameraOptions, video: JetsonVideo) -> Sequence[Attempt]:
    """A USB camera, decoded in hardware where that can be; a camera without JPEG, or whose JPEG the decoder
    does not take, as on any other machine, by MJPG, which most of them need for more than a few frames a
    second at full size.

    A link is followed each time: a camera that was plugged in again may have another number.
    """
    path = os.path.realpath(device.path)
    settings: list[tuple[int, float]] = [(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))]
    if camera.size:
        height, width = camera.size
        settings += [(cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)]
    if camera.fps:
        settings.append((cv2.CAP_PROP_FPS, camera.fps))
    settings.append((cv2.CAP_PROP_BUFFERSIZE, 1))
    match = re.fullmatch("/dev/video([0-9]+)", path)
    if match is None:
        return [Attempt("device", path, tuple(settings))]
    number = int(match[1])
    decoded = [Attempt("pipeline", usb_pipeline(number, camera.size, camera.fps))] if video.decodes else []
    return [*decoded, Attempt("device", number, tuple(settings))]


def _stream_attempts(address: Address, video: JetsonVideo) -> Sequence[Attempt]:
    """A network stream, decoded in hardware where that can be."""
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _STREAM_MS), (cv2.CAP_PROP_READ_TIMEOUT_MSEC, _STREAM_MS)
    decoded = [Attempt("pipeline", stream_pipeline(address))] if video.decodes else []
    return [*decoded, Attempt("stream", address.secret, limits)]


def _device_advice() -> str:
    found = sorted(str(path) for path in (*Path("/dev").glob("video*"), *Path("/dev/v4l/by-id").glob("*")))
    listed = f"cameras here: {', '.join(found)}" if found else "this machine has no /dev/video*"
    return f"{listed}; --source also takes a stream's URL, csi://0, videos and pictures"
