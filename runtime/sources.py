"""Where frames come from: one picture, a folder of pictures, or a video file. A file source drops nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    is empty when the frame could not be read."""

    number: int
    name: str
    time_s: float
    pixels: npt.NDArray[np.uint8]
    error: str | None = None


class Source(ABC):
    """Frames in order, read again from the start by each iteration. Iterating blocks: use a worker thread."""

    fps: float | None = None  # of a video; None for pictures
    count: int | None = None

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
                pixels = np.ascontiguousarray(image[..., ::-1], np.uint8)  # OpenCV decodes to BGR
                yield Frame(number, f"{self._path.stem}_{number:06}", number / fps, pixels)
                number += 1
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise InputError(f"{self._path} cannot be opened as a video; supported are {_list(VIDEOS)}")
        return capture


_NOTHING = np.zeros((0, 0, 3), np.uint8)
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
        return _NOTHING, f"{path} cannot be decoded: {exc}"


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
