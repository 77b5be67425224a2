"""Where frames come from. Here: one picture, a folder of pictures, a video file; `runtime.cameras` has what
is live.

A file source drops nothing; a live one keeps the newest frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from stages.errors import InputError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"}


@dataclass(frozen=True)
class Frame:
    """One picture: RGB uint8 [H, W, 3]. `time_s` counts from the source's start; `error` says why `pixels`
    is empty when the frame could not be read. `captured_s` is when a camera took it, on the clock of
    time.perf_counter; None for files."""

    number: int
    name: str
    time_s: float
    pixels: npt.NDArray[np.uint8]
    error: str | None = None
    captured_s: float | None = None


class Source(ABC):
    """Frames in order. Opening, iterating and closing block: use a worker thread.

    Use it inside `with`. A file is read again from the start by each iteration. `dropped` counts frames that
    were never handed on, `trouble` says what keeps frames from coming now.
    """

    fps: float | None = None  # of a video; None for pictures
    count: int | None = None
    film: bool = False  # frames show one scene as time goes by, so that objects can be followed
    live: bool = False
    dropped: int = 0
    trouble: str | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:  # noqa: B027  (files wait for nothing)
        """End every iteration soon, one that waits for a frame included; callable from any thread."""

    @abstractmethod
    def sizes(self) -> frozenset[tuple[int, int]]:
        """(height, width) of every frame to come, known before the first is read."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...


class PictureSource(Source):
    """Pictures in the given order. EXIF orientation is applied, transparency dropped."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._names = _frame_names(paths)
        self.count = len(paths)

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset(_picture_size(path) for path in self._paths)

    def __iter__(self) -> Iterator[Frame]:
        for number, (path, name) in enumerate(zip(self._paths, self._names, strict=True)):
            pixels, error = _decode(path)
            yield Frame(number, name, float(number), pixels, error)


class VideoSource(Source):
    """A video file, decoded by OpenCV."""

    film = True

    def __init__(self, path: Path) -> None:
        self._path = path
        capture = self._open()
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        ok, first = capture.read()
        capture.release()
        if not ok:
            raise InputError(f"{path} holds no video that OpenCV can decode")
        self._size = (first.shape[0], first.shape[1])

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({self._size})

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        fps = self.fps or 25.0
        number = 0
        try:
            while True:
                ok, image = capture.read()
                if not ok:
                    return
                yield Frame(number, f"{self._path.stem}_{number:06}", number / fps, to_rgb(image))
                number += 1
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise InputError(f"{self._path} cannot be opened as a video; supported are {_list(VIDEOS)}")
        return capture


def to_rgb(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """What OpenCV decodes, BGR [H, W, 3], as RGB."""
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


NOTHING = np.zeros((0, 0, 3), np.uint8)
# What Pillow raises for damaged pictures, and for one so large that it may be an attack.
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def open_source(path: Path) -> Source:
    """The source a path names. Raises InputError when it is missing, empty or of an unknown kind."""
    if path.is_dir():
        pictures = _pictures_in(path)
        if not pictures:
            raise InputError(f"folder {path} holds no pictures; supported are {_list(PICTURES)}")
        return PictureSource(pictures)
    if not path.is_file():
        raise InputError(
            f"source {path} does not exist; give a picture, a folder of pictures or a video file"
        )
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return PictureSource([path])
    if suffix in VIDEOS:
        return VideoSource(path)
    raise InputError(f"source {path} is of an unknown kind; supported are {_list(PICTURES | VIDEOS)}")


def _pictures_in(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    except OSError as exc:
        raise InputError(f"folder {folder} cannot be read ({exc.strerror})") from exc


def _frame_names(paths: list[Path]) -> list[str]:
    """Names without suffix, but for those that would then be alike."""
    stems = Counter(path.stem for path in paths)
    return [path.stem if stems[path.stem] == 1 else path.name for path in paths]


def _decode(path: Path) -> tuple[npt.NDArray[np.uint8], str | None]:
    """The picture, or nothing and what is wrong with it."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB")), None
    except _UNREADABLE as exc:
        return NOTHING, f"{path} cannot be decoded: {exc}"


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            # Not image.getexif(): that of PNG decodes the picture, to look for EXIF behind it.
            turned = Image.Image.getexif(image).get(0x0112) in (5, 6, 7, 8)  # those swap the sides
            width, height = image.size
            if isinstance(image, TiffImageFile):  # newer versions of Pillow have turned its size by now
                width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    except _UNREADABLE as exc:
        raise InputError(f"picture {path} cannot be read ({exc}); remove it from the source") from exc
    return (width, height) if turned else (height, width)


def _list(suffixes: set[str]) -> str:
    return ", ".join(sorted(suffixes))
