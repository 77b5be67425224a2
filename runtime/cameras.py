"""Live sources: cameras, network streams and files played at their own speed, all through OpenCV.

A live source always hands on the newest frame and counts those it had to leave out. When the camera fails it
is opened again, with growing pauses, until the run ends.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
import numpy.typing as npt

from runtime.sources import NOTHING, VIDEOS, Frame, Source, VideoSource, open_source, to_rgb
from stages.errors import InputError

RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # waits between attempts to open a camera again; the last one repeats
_STREAM_MS = 5000  # a network stream that is silent for so long has failed
_STREAMS = ("rtsp", "rtsps", "http", "https")
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class CameraOptions:
    """What to ask of a camera. `size` is width x height in pixels; `rotate` is degrees clockwise.

    `realtime` plays a video file as if it were a camera.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    rotate: int = 0
    realtime: bool = False

    def __post_init__(self) -> None:
        if self.rotate not in (0, *_TURNS):
            raise InputError(f"--rotate {self.rotate}: expected 0, {', '.join(map(str, _TURNS))}")


class Capture(Protocol):
    """An open camera, as cv2.VideoCapture is one. `read` blocks; False means that no frame came."""

    def read(self) -> tuple[bool, npt.NDArray[Any] | None]: ...

    def release(self) -> None: ...


OpenCapture = Callable[[], Capture | None]  # None: it cannot be opened now

# What OpenCV and FFmpeg warn of they would say again at every attempt; here it is told once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class LiveSource(Source):
    """Frames of a capture that a thread of its own reads, newest first. Iterate it once, on one thread.

    `endless` False makes the end of the capture the end of the source, else it is opened again. `say` gets a
    line when the camera fails and when it is back; it is called on the reading thread.
    """

    film = True
    live = True

    def __init__(
        self,
        name: str,
        open_capture: OpenCapture,
        *,
        rotate: int = 0,
        fps: float | None = None,
        endless: bool = True,
        retry_s: Sequence[float] = RETRY_S,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = name
        self.fps = fps
        self.say = say
        self._open_capture = open_capture
        self._rotate = rotate
        self._endless = endless
        self._retry_s = retry_s
        self._news = threading.Condition()
        self._newest: tuple[float, npt.NDArray[Any]] | None = None  # when it came, BGR
        self._ended = False
        self._stopping = threading.Event()
        self._size: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._read, name=f"camera {name}", daemon=True)

    def __enter__(self) -> LiveSource:
        """Open the camera and wait for its first frame. Raises InputError when there is none."""
        capture = self._open_capture()
        ok, first = capture.read() if capture is not None else (False, None)
        if capture is None or not ok or first is None:
            if capture is not None:
                capture.release()
            raise InputError(f"{self.name} gives no picture; {_advice(self.name)}")
        self._started_s = time.perf_counter()
        self._put(first)
        self._size = self._turned(first).shape[0], self._turned(first).shape[1]
        self._capture: Capture | None = capture
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the iteration and the reading thread; the camera is released once its last read returns."""
        self._stopping.set()
        self._end()

    def sizes(self) -> frozenset[tuple[int, int]]:
        if self._size is None:
            raise RuntimeError("a live source knows its size inside `with` only")
        return frozenset({self._size})

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while (taken := self._take()) is not None:
            at_s, image = taken
            picture = self._turned(image)
            name, since_s = f"{number:08}", at_s - self._started_s
            if picture.shape[:2] == self._size:
                yield Frame(number, name, since_s, to_rgb(picture), captured_s=at_s)
            else:
                yield Frame(number, name, since_s, NOTHING, self._other_size(picture), at_s)
            number += 1

    def _take(self) -> tuple[float, npt.NDArray[Any]] | None:
        with self._news:
            self._news.wait_for(lambda: self._newest is not None or self._ended)
            taken, self._newest = self._newest, None
            return None if self._stopping.is_set() else taken

    def _put(self, image: npt.NDArray[Any]) -> None:
        with self._news:
            self.dropped += self._newest is not None
            self._newest = (time.perf_counter(), image)
            self._news.notify_all()

    def _end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read(self) -> None:
        """The reading thread: frames until the source is stopped, opening the camera again when it fails."""
        while not self._stopping.is_set():
            self._read_capture()
            if not self._endless:
                break
            if not self._stopping.is_set():
                self._reopen()
        self._release()
        self._end()

    def _read_capture(self) -> None:
        while self._capture is not None and not self._stopping.is_set():
            ok, image = self._capture.read()
            if not ok or image is None:
                return
            if self.trouble is not None:
                self.trouble = None
                self.say(f"{self.name} is back")
            self._put(image)

    def _reopen(self) -> None:
        self._release()
        if self.trouble is None:
            self.trouble = f"{self.name} gives no picture any more; it is opened again when it is back"
            self.say(self.trouble)
        attempt = 0
        while self._capture is None:
            if self._stopping.wait(self._retry_s[min(attempt, len(self._retry_s) - 1)]):
                return
            self._capture = self._open_capture()
            attempt += 1

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _turned(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return cv2.rotate(image, _TURNS[self._rotate]) if self._rotate else image

    def _other_size(self, picture: npt.NDArray[Any]) -> str:
        height, width = self._size or (0, 0)
        return (
            f"{self.name} now sends {picture.shape[1]} x {picture.shape[0]} pixels, and began with "
            f"{width} x {height}; start again to use the new size"
        )


class PacedFile:
    """A video file as a Capture: `read` waits until the next frame is due."""

    def __init__(self, path: Path, fps: float) -> None:
        self._capture = cv2.VideoCapture(str(path))
        self._interval_s = 1 / fps
        self._due_s = time.perf_counter()

    def read(self) -> tuple[bool, npt.NDArray[Any] | None]:
        time.sleep(max(0.0, self._due_s - time.perf_counter()))
        self._due_s += self._interval_s
        return self._capture.read()

    def release(self) -> None:
        self._capture.release()


def source_for(text: str, camera: CameraOptions, say: Callable[[str], None] = lambda text: None) -> Source:
    """The source that `--source` names: a camera's number or device, csi://N, a stream's URL, or files.

    Raises InputError for files that cannot be used; cameras are tried when the source is entered.
    """
    if opening := _opening(text, camera):
        return LiveSource(_without_password(text), opening, rotate=camera.rotate, fps=camera.fps, say=say)
    source = open_source(Path(text))
    if not camera.realtime:
        return source
    if not isinstance(source, VideoSource):
        raise InputError(f"--realtime plays a video file; {text} is none")
    return _played(Path(text), source.fps or 25.0, camera.rotate)


def _played(path: Path, fps: float, rotate: int) -> LiveSource:
    return LiveSource(str(path), lambda: PacedFile(path, fps), rotate=rotate, fps=fps, endless=False)


def _opening(text: str, camera: CameraOptions) -> OpenCapture | None:
    """How to open a live source, None when `text` names files."""
    if match := re.fullmatch(r"(?:/dev/video)?(\d+)", text):
        return lambda: _open_device(int(match[1]), camera)
    scheme = urlsplit(text).scheme
    if scheme == "csi":
        sensor = text.partition("://")[2]
        if not sensor.isdigit():
            raise InputError(f"source {text} names no camera; expected like csi://0")
        return lambda: _opened(cv2.VideoCapture(csi_pipeline(int(sensor), camera), cv2.CAP_GSTREAMER))
    if scheme in _STREAMS:
        return lambda: _open_stream(text)
    return None


def _open_device(index: int, camera: CameraOptions) -> Capture | None:
    """A USB camera; MJPG is what most of them need for more than a few frames a second at full size."""
    settings = [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")]
    if camera.size:
        settings += [cv2.CAP_PROP_FRAME_WIDTH, camera.size[0], cv2.CAP_PROP_FRAME_HEIGHT, camera.size[1]]
    capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
    for name, value in zip(settings[::2], settings[1::2], strict=True):
        capture.set(name, value)  # a camera that cannot goes on with what it has
    if camera.fps:
        capture.set(cv2.CAP_PROP_FPS, camera.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return _opened(capture)


def _open_stream(url: str) -> Capture | None:
    """A network stream, decoded in hardware where this is a Jetson whose OpenCV has GStreamer."""
    if on_jetson() and has_gstreamer():
        capture = _opened(cv2.VideoCapture(stream_pipeline(url), cv2.CAP_GSTREAMER))
        if capture is not None:
            return capture
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _STREAM_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _STREAM_MS]
    return _opened(cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits))


def _opened(capture: cv2.VideoCapture) -> Capture | None:
    return capture if capture.isOpened() else None


_TO_BGR = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_NEWEST = "appsink drop=true max-buffers=1 sync=false"


def csi_pipeline(sensor: int, camera: CameraOptions) -> str:
    """GStreamer pipeline of a camera on a Jetson's CSI connector."""
    width, height = camera.size or (1280, 720)
    wanted = f"width={width},height={height},framerate={round(camera.fps or 30)}/1"
    return f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),{wanted} ! {_TO_BGR} ! {_NEWEST}"


def stream_pipeline(url: str) -> str:
    """GStreamer pipeline of a network stream; on a Jetson decodebin ranks its hardware decoder first."""
    if any(not character.isprintable() or character in '"\\ ' for character in url):
        raise InputError(f"source {_without_password(url)!r} is no URL; write odd characters as %XX")
    return f'uridecodebin uri="{url}" ! {_TO_BGR} ! {_NEWEST}'


def on_jetson() -> bool:
    return Path("/etc/nv_tegra_release").exists()


def has_gstreamer() -> bool:
    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


def _without_password(url: str) -> str:
    """A URL as it may be shown and logged."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def _advice(name: str) -> str:
    """What to do about a source that cannot be opened."""
    if urlsplit(name).scheme in _STREAMS:
        return (
            "check its address, path, user and password (rtsp://USER:PASSWORD@HOST/PATH), and whether a "
            "player shows it; with OPENCV_FFMPEG_LOGLEVEL=24 in the environment FFmpeg says why"
        )
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    listed = f"cameras here: {', '.join(found)}" if found else "this machine has no /dev/video*"
    return f"{listed}; --source also takes a stream's URL, csi://0 and files ({', '.join(sorted(VIDEOS))})"


def as_bgr(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """RGB as a Capture gives it: the way back from `to_rgb`."""
    return np.ascontiguousarray(pixels[..., ::-1])
