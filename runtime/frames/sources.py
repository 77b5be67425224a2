"""Where frames come from. Here: one picture, a folder of pictures, a video file.

`runtime.frames.cameras` has what is live.

A file source drops nothing; a live one keeps the newest frame.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from media.folders import find_pictures
from media.other_kinds import START_BYTES, check_no_raw_photo, not_a_picture
from media.pictures import SUFFIXES, PictureInfo, picture_info, read_scaled
from media.videos import VIDEOS, VideoReader, is_video
from runtime.results.run_folder import MARKER, names_of_results
from stages.errors import InputError, printable
from stages.words import in_order, some_of


@dataclass(frozen=True)
class Frame:
    """One picture: RGB uint8 [H, W, 3]. `time_s` counts from the source's start; `error` says why `pixels`
    is empty when the frame could not be read. `captured_s` is when a camera took it, on the clock of
    time.perf_counter; None for files. `jumped`: it does not follow the frame that came before it, since a
    viewer went there."""

    number: int
    name: str
    time_s: float
    pixels: npt.NDArray[np.uint8]
    error: str | None = None
    captured_s: float | None = None
    jumped: bool = False


class Source(ABC):
    """Frames in order. Opening, iterating and closing block: use a worker thread.

    `kind` is a plain word for what it is: "picture", "folder", "video", "camera" or "stream".
    Use it inside `with`. A file is read again from the start by each iteration. `dropped` counts frames that
    were never handed on, `trouble` says what keeps frames from coming now, `openings` counts attempts to open
    a camera. `warnings` are sentences about what was left out or ended early, all of them after the end.
    """

    kind: str = "picture"
    fps: float | None = None  # of a video; None for pictures
    count: int | None = None
    is_sequence: bool = False  # frames show one scene as time goes by, so that objects can be followed
    live: bool = False
    dropped: int = 0
    trouble: str | None = None
    openings: int = 0
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()  # that are read
    examples: Mapping[tuple[int, int], str] = MappingProxyType({})  # a picture of each size

    @property
    def standing(self) -> bool:
        """Whether no frame comes until a viewer asks for one."""
        return False

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
    """Pictures in the given order, `fps` of them a second. `media.pictures` says how they are read.

    One that cannot be read is a lost frame. `sizes` reads all headers, once, and adds what is to be told to
    `warnings`.
    """

    def __init__(self, paths: Sequence[Path], fps: float = 1.0) -> None:
        self._paths = paths
        self._names = _frame_names(paths)
        self.step_s = 1 / fps
        self.files = tuple(paths)
        self._headers: list[PictureInfo | InputError] | None = None
        self.count = len(paths)
        self.kind = "picture" if len(paths) == 1 else "folder"

    def sizes(self) -> frozenset[tuple[int, int]]:
        self._read_headers()
        return frozenset(self.examples)

    def __iter__(self) -> Iterator[Frame]:
        scales = []
        for number, path in enumerate(self._paths):
            frame, scale = self._read(number)
            if scale:
                scales.append(f"{path.name} ({scale})")
            yield frame
        told = f"values that are shown as black to white: {some_of(scales)}"
        if scales and told not in self.warnings:
            self.warnings += (told,)

    def frame(self, number: int) -> Frame:
        """The picture of this number, read anew."""
        return self._read(number)[0]

    def _read(self, number: int) -> tuple[Frame, str | None]:
        """A picture, and how its values were scaled."""
        pixels, scale, error = _decode(self._paths[number], self._read_headers()[number])
        return Frame(number, self._names[number], number * self.step_s, pixels, error), scale

    def _read_headers(self) -> list[PictureInfo | InputError]:
        if self._headers is None:
            self._headers = [_header(path) for path in self._paths]
            self.examples = {
                (header.height, header.width): path.name
                for header, path in zip(self._headers, self._paths, strict=True)
                if isinstance(header, PictureInfo)
            }
            self.warnings += tuple(self._remarks(self._headers))
        return self._headers

    def _remarks(self, headers: Sequence[PictureInfo | InputError]) -> Iterator[str]:
        several = {
            path.name: header.count
            for path, header in zip(self._paths, headers, strict=True)
            if isinstance(header, PictureInfo) and header.count > 1
        }
        if several:
            listed = (f"{name} ({count})" for name, count in several.items())
            yield f"of files with several pictures only the first is taken: {some_of(listed)}"
        kept = [n for n, path in zip(self._names, self._paths, strict=True) if n == path.name != path.stem]
        if kept:
            yield f"results of pictures of one name are named with their suffix: {some_of(kept)}"


class VideoSource(Source):
    """A video file. `time_s` is each frame's own time in it, from 0."""

    kind = "video"
    is_sequence = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)
        with VideoReader(path) as reader:
            self.fps, self.count, self._size = reader.fps, reader.count, reader.size

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({self._size})

    def __iter__(self) -> Iterator[Frame]:
        with VideoReader(self.path) as reader:
            for number, (time_s, pixels) in enumerate(reader.frames()):
                name = f"{self.path.stem}_{number:06}"
                if pixels.shape[:2] == self._size:
                    yield Frame(number, name, time_s, pixels)
                else:
                    error = other_size(printable(self.path.name), pixels, self._size, ONE_SIZE)
                    yield Frame(number, name, time_s, NOTHING, error)
            self.warnings = reader.warnings


class TurnedSource(Source):
    """The frames of a source, turned clockwise by 90, 180 or 270 degrees."""

    def __init__(self, source: Source, degrees: int) -> None:
        self.source = source
        self._turns = degrees // 90
        self.kind, self.fps, self.count = source.kind, source.fps, source.count
        self.is_sequence, self.warnings, self.files = source.is_sequence, source.warnings, source.files

    def sizes(self) -> frozenset[tuple[int, int]]:
        sizes = self.source.sizes()
        self.warnings = self.source.warnings  # it may have looked at its files only now
        self.examples = {self._turned(size): name for size, name in self.source.examples.items()}
        return frozenset(map(self._turned, sizes))

    def _turned(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if self._turns % 2 else size

    def __iter__(self) -> Iterator[Frame]:
        yield from map(self.turn, self.source)
        self.warnings = self.source.warnings

    def turn(self, frame: Frame) -> Frame:
        """A frame of the source it turns, turned."""
        if frame.error:
            return frame
        return replace(frame, pixels=np.ascontiguousarray(np.rot90(frame.pixels, -self._turns)))


NEW_START = "start again to use the new size"
ONE_SIZE = "convert it to one size first: ffmpeg -i FILE -vf scale=WIDTH:HEIGHT NEW.mp4"


def other_size(
    name: str,
    pixels: npt.NDArray[Any],
    began: tuple[int, int],
    advice: str = NEW_START,
) -> str:
    """Why a frame of another size than the source began with is lost."""
    return (
        f"{name} now has {pixels.shape[1]} x {pixels.shape[0]} pixels, and began with "
        f"{began[1]} x {began[0]}; {advice}"
    )


NOTHING = np.zeros((0, 0, 3), np.uint8)


def open_source(path: Path, fps: float = 1.0) -> Source:
    """The source of a file or a folder that is there; `fps` is that of a folder of pictures.

    A file with an unknown suffix is known by its content. Raises InputError when it is empty or of another
    kind.
    """
    if os.path.isdir(path):  # is_dir() raises for what may not be looked at
        return _folder_source(path, fps)
    suffix = path.suffix.lower()
    check_no_raw_photo(f"source {printable(path)}", suffix)
    if _is_picture(path, suffix):
        return PictureSource([path], fps)
    if suffix in VIDEOS or is_video(path):
        return VideoSource(path)
    what = _other_kind(path) or f"it is of an unknown kind; supported are {in_order(SUFFIXES | VIDEOS)}"
    raise InputError(f"source {printable(path)} is no picture and no video: {what}")


def _other_kind(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        return not_a_picture(file.read(START_BYTES))
    return None


def _is_picture(path: Path, suffix: str) -> bool:
    """By the suffix where that says it; a .gif is a video where it moves."""
    if suffix in SUFFIXES ^ VIDEOS:
        return suffix in SUFFIXES
    header = _header(path)
    return not isinstance(header, InputError) and (header.count == 1 or suffix not in VIDEOS)


def _folder_source(folder: Path, fps: float) -> PictureSource:
    found = find_pictures(folder)
    told = tuple(found.told(expected=names_of_results(folder) if (folder / MARKER).exists() else ()))
    if not found.paths:
        raise InputError(
            f"folder {printable(folder)} holds no pictures; supported are {in_order(SUFFIXES)}"
            + "".join(f"; {sentence}" for sentence in told)
        )
    source = PictureSource(found.paths, fps)
    source.warnings += told
    return source


def _frame_names(paths: Sequence[Path]) -> list[str]:
    """Names without suffix, but for those that would then be alike, also where case does not count."""
    names = [path.stem for path in paths]
    while True:
        seen = Counter(name.casefold() for name in names)
        distinct = [
            name if seen[name.casefold()] == 1 else path.name for name, path in zip(names, paths, strict=True)
        ]
        if distinct == names:
            return names
        names = distinct


def _header(path: Path) -> PictureInfo | InputError:
    try:
        return picture_info(path)
    except InputError as exc:
        return exc


def _decode(
    path: Path, header: PictureInfo | InputError
) -> tuple[npt.NDArray[np.uint8], str | None, str | None]:
    """The picture and how its values were scaled, or nothing, and what is wrong with it.

    One whose header could not be read is not tried again: nobody expects a frame of its size.
    """
    if isinstance(header, InputError):
        return NOTHING, None, str(header)
    try:
        pixels, scale = read_scaled(path)
    except InputError as exc:
        return NOTHING, None, str(exc)
    if pixels.shape[:2] != (header.height, header.width):
        return NOTHING, None, f"picture {printable(path)} has changed since the run began"
    return pixels, scale, None
