"""An iterator over the frames of a film with their objects, for asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.api.arguments import Frame, pixels_of
from runtime.api.errors import ArgumentError
from runtime.api.one_process import OfOneProcess
from runtime.api.tracking import Following, TrackedFrame
from runtime.frames.sources import Frame as SourceFrame
from runtime.frames.sources import open_source
from stages.errors import InputError

END: Any = object()  # after the last frame
Frames: TypeAlias = Iterable[Frame] | AsyncIterable[Frame] | str | os.PathLike[str]


class AsyncTracker(OfOneProcess):
    """Gives a TrackedFrame for each frame, in order; made by `AsyncSession.track`.

    `aclose`, or `async with`, drops what was read ahead. Belongs to one task at a time.
    """

    def __init__(self, following: Following, frames: Frames, image_format: str) -> None:
        self.following = following
        self._image_format = image_format
        self._frames = _frames(frames)
        self._ended = False

    def __aiter__(self) -> AsyncIterator[TrackedFrame]:
        return self

    async def __anext__(self) -> TrackedFrame:
        following = self.following
        while not self._ended and following.pending < following.in_flight:
            try:
                frame = await anext(self._frames)
            except StopAsyncIteration:
                self._ended = True
                following.no_more()
            else:
                await push(following, frame, self._image_format)
        if not following.pending:
            raise StopAsyncIteration
        return await following.result()

    async def prompt(
        self,
        name: str | None = None,
        *,
        box: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
    ) -> str:
        """Ask for one more object, or correct one. See Tracker.prompt."""
        return await self.following.prompt(name, box, points, labels)

    def remove(self, name: str) -> None:
        """Follow an object no further. Raises InputError where there is none of this name."""
        self.following.remove(name)

    async def aclose(self) -> None:
        """Read no further frame."""
        self._ended = True
        self.following.close()
        await self._frames.aclose()

    async def __aenter__(self) -> AsyncTracker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def push(following: Following, frame: Frame | SourceFrame, image_format: str) -> None:
    """Give one frame on, as a caller or a source of files has it; a file that cannot be read is a lost frame.
    Raises ArgumentError."""
    if isinstance(frame, SourceFrame):
        if frame.error is not None:
            following.push_lost(frame.error)
            return
        frame, image_format = frame.pixels, "RGB"
    try:
        pixels = await to_thread.run_sync(pixels_of, frame, image_format)
    except ArgumentError:
        raise
    except InputError as exc:  # a file, as of a folder
        following.push_lost(str(exc))
        return
    await following.push(pixels)


def source_frames(path: str | os.PathLike[str]) -> Iterator[SourceFrame]:
    """The frames of a video, or of a folder of pictures in the order of their names. Raises InputError."""
    if not os.path.lexists(path):
        raise InputError(f"{os.fspath(path)} is not there; give a video, a folder of pictures, or frames")
    return iter(open_source(Path(path)))


async def _frames(frames: Frames) -> AsyncGenerator[Frame | SourceFrame, None]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    opened = await to_thread.run_sync(iterator_of, frames)
    while (next_one := await to_thread.run_sync(next, opened, END, abandon_on_cancel=True)) is not END:
        yield next_one


def iterator_of(frames: Any) -> Iterator[Frame | SourceFrame]:
    """Frames of an iterable or of files. Blocks. Raises ArgumentError for what is neither."""
    if isinstance(frames, str | os.PathLike):
        return source_frames(frames)
    if isinstance(frames, np.ndarray) and frames.ndim < 4:
        raise ArgumentError(
            f"frames are one array of shape {list(frames.shape)}, expected several frames, one after "
            "another: an iterable of them or an array [N, height, width, 3]; of a single one, [frame]"
        )
    try:
        return iter(frames)
    except TypeError as exc:
        raise ArgumentError(
            f"frames are a {type(frames).__name__}, expected an iterable of frames, or the path of a video "
            "or of a folder of pictures"
        ) from exc
