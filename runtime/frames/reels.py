"""Files whose frames can be taken in any order: pictures, and a video that is sought in by time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain
from pathlib import Path

from media.videos import VideoReader
from runtime.frames.sources import (
    NOTHING,
    ONE_SIZE,
    Frame,
    PictureSource,
    Source,
    TurnedSource,
    VideoSource,
    other_size,
)
from stages.errors import printable
from stages.tensors import Pixels

BEFORE_S = 1e-3  # what is shown so much before a frame is the one before it


class Reel(ABC):
    """The frames of a file, by their times in it. Every call may block while it reads.

    `step_s` is what usually lies between two frames, `end_s` about the time of the last one.
    """

    step_s: float
    end_s: float

    @abstractmethod
    def at(self, time_s: float) -> Frame:
        """The last frame at or before this time; the first one where there is none."""

    @abstractmethod
    def following(self) -> Frame | None:
        """The frame after the one that was taken last; None at the end."""

    @abstractmethod
    def preceding(self) -> Frame:
        """The frame before the one that was taken last; the first one again where there is none."""

    def close(self) -> None:  # noqa: B027  (pictures keep nothing open)
        """Let go of the file."""


class PictureReel(Reel):
    """Pictures in their order."""

    def __init__(self, source: PictureSource) -> None:
        self._source = source
        self._last = 0
        self._pictures = len(source.files)
        self.step_s = source.step_s
        self.end_s = (self._pictures - 1) * self.step_s

    def at(self, time_s: float) -> Frame:
        return self._take(round(min(max(time_s, 0.0), self.end_s) / self.step_s))

    def following(self) -> Frame | None:
        return self._take(self._last + 1) if self._last + 1 < self._pictures else None

    def preceding(self) -> Frame:
        return self._take(max(0, self._last - 1))

    def _take(self, number: int) -> Frame:
        self._last = number
        return self._source.frame(number)


class VideoReel(Reel):
    """A video file. One whose times do not tell where a frame is is read again from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = VideoReader(path)
        self._frames = self._reader.frames()
        self._last_s = 0.0
        self.step_s = 1 / self._reader.fps
        self.end_s = max(0.0, self._reader.duration_s - self.step_s)

    def at(self, time_s: float) -> Frame:
        if self._reader.seek(time_s):
            self._frames = self._reader.frames_on()
            return self._frame(*next(self._frames))
        self.close()
        self._reader = VideoReader(self._path)
        frames = self._reader.frames()
        newest = next(frames)
        for found in frames:
            if found[0] > time_s:
                frames = chain((found,), frames)
                break
            newest = found
        self._frames = frames
        return self._frame(*newest)

    def following(self) -> Frame | None:
        found = next(self._frames, None)
        return None if found is None else self._frame(*found)

    def preceding(self) -> Frame:
        return self.at(self._last_s - BEFORE_S)

    def close(self) -> None:
        self._reader.close()

    def _frame(self, time_s: float, pixels: Pixels) -> Frame:
        self._last_s = time_s
        name = f"{self._path.stem} at {time_s:.3f} s"
        if pixels.shape[:2] == self._reader.size:
            return Frame(0, name, time_s, pixels)
        error = other_size(printable(self._path.name), pixels, self._reader.size, ONE_SIZE)
        return Frame(0, name, time_s, NOTHING, error)


class TurnedReel(Reel):
    """The frames of a reel, turned as a source's are."""

    def __init__(self, reel: Reel, turned: TurnedSource) -> None:
        self._reel = reel
        self._turn = turned.turn
        self.step_s, self.end_s = reel.step_s, reel.end_s

    def at(self, time_s: float) -> Frame:
        return self._turn(self._reel.at(time_s))

    def following(self) -> Frame | None:
        found = self._reel.following()
        return None if found is None else self._turn(found)

    def preceding(self) -> Frame:
        return self._turn(self._reel.preceding())

    def close(self) -> None:
        self._reel.close()


def reel_of(source: Source) -> Reel:
    """The frames of a source of files in any order. Raises InputError for a video that cannot be read."""
    if isinstance(source, TurnedSource):
        return TurnedReel(reel_of(source.source), source)
    if isinstance(source, PictureSource):
        return PictureReel(source)
    if isinstance(source, VideoSource):
        return VideoReel(source.path)
    raise TypeError(f"{type(source).__name__} has no frames that can be taken in any order")
