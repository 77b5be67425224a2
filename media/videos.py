"""Video files, read by PyAV (FFmpeg) through a file that Python has opened.

So nothing in a name is parsed, and nothing but the file itself is opened, whatever stands in it: playlists,
references to other files and descriptions of streams are refused.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.index import IndexEntry
from av.stream import Disposition
from av.video.stream import VideoStream

from media.containers import declared_bytes, ends_in_zeros, gif_breaks_off, lacks_index
from media.other_kinds import START_BYTES, not_a_video
from media.rising_times import RisingTimes
from media.value_range import ValueRange, find_range
from stages.errors import InputError, printable
from stages.tensors import Pixels
from stages.words import in_order, some_of

VIDEOS = {
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".vob", ".flv", ".wmv", ".asf", ".ogv", ".mxf", ".dv", ".mjpeg", ".mjpg", ".h264", ".264", ".h265",
    ".hevc", ".gif",
}  # fmt: skip
# Containers and bare streams whose pictures are in the file itself, by FFmpeg's names.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,dv,mjpeg,mpjpeg,h264,hevc,vvc,vc1,h263,av1,"
    "obu,ivf,nut,rm,gif,yuv4mpegpipe,wtv"
)
# No protocol has that name, so nothing else is opened.
_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": _FORMATS,
    "correct_ts_overflow": "0",  # it takes a clock that begins anew for one of 33 bits that ran over
}
_BUFFER_BYTES = 1 << 18
_SAME_S = 1e-4  # times that are closer are the same
_BACK_S = 0.5  # that is sought further back at first where a place lies behind the one that was sought
_DEFAULT_FPS, _MAX_FPS = 25.0, 1000.0  # FFmpeg's own; above is the rate of a clock, not of frames
_TS_DISCONT = 0x200  # FFmpeg's AVFMT_TS_DISCONT
_INDEXED = ("mov", "avi", "mxf")  # formats that say where their pictures end
_MOST = 0.9  # of the frames; a few more may be counted than are shown
_UNREADABLE = (av.error.FFmpegError, OSError)


class VideoReader:
    """One video file, read once from its start. Use it inside `with`, on one thread at a time.

    `size` is (height, width) of the first frame as it is shown, `fps` the average rate, `count` how many
    frames the file's index has, None where it does not tell. `warnings` are sentences about what was lost,
    known after the last frame. Raises InputError for a file that holds no video.
    """

    def __init__(self, path: Path) -> None:
        self.warnings: tuple[str, ...] = ()
        self._path = path
        self._read = self._lost = self._patched = 0
        self._end_s = 0.0
        self._own_end_s: float | None = None
        self._scale: ValueRange | None = None
        self._failure: str | None = None
        self._file = _open_file(path)
        try:
            self._container = _open_container(self._file, path)
        except BaseException:
            self._file.close()
            raise
        try:
            self._stream = _best_stream(self._container, path)
            self._stream.thread_type = "AUTO"
            self.fps = _rate(self._stream)
            self.count = _count(self._stream, self.fps)
            self._decoded: Iterator[av.VideoFrame] = self._decode()
            self._next = next(self._decoded, None)
            if self._next is None:
                raise InputError(f"no frame of {path} can be decoded; see whether a player shows it")
            self._begins_s = self._own_time_s(self._next)
            first = self._pixels(self._next)
        except BaseException:
            self.close()
            raise
        self.size = (first.shape[0], first.shape[1])

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def frames(self) -> Iterator[tuple[float, Pixels]]:
        """Each frame's own time, in seconds from 0 and later than that of the frame before, and its pixels:
        uint8 [H, W, 3], turned as the file says that it is to be shown."""
        times = RisingTimes(1 / self.fps, self._joinable)
        while self._next is not None:
            frame, self._next = self._next, next(self._decoded, None)
            self._read += 1
            self._patched += frame.is_corrupt
            self._end_s = times.time_s(self._own_time_s(frame), self._own_time_s(self._next))
            self._own_end_s = self._own_time_s(frame, end=True)
            yield self._end_s, self._pixels(frame)
        self.warnings = (*self._losses(), *self._oddities(times))

    @property
    def duration_s(self) -> float:
        """What the file says that it takes to show it, in seconds; 0 where it says nothing."""
        return (self._container.duration or 0) / av.time_base

    def seek(self, time_s: float) -> bool:
        """Have `frames_on` begin with the last frame at or before `time_s`, the first where there is none.

        False, and nothing is done, where the file does not tell times by which a place in it can be found.
        """
        base = self._stream.time_base
        if self._begins_s is None or base is None or self._joinable:
            return False
        own_s = self._begins_s + max(0.0, time_s) + _SAME_S
        before_s = 0.0  # files are sought in by times of decoding, which may lie behind those of showing
        while True:
            try:
                self._container.seek(int((own_s - before_s) / base), stream=self._stream, backward=True)
            except _UNREADABLE:
                return False
            self._decoded = self._decode()
            self._next = next(self._decoded, None)
            if self._next is None:
                return False
            if (self._own_time_s(self._next) or 0.0) <= own_s or before_s > time_s:
                break
            before_s = 2 * before_s or _BACK_S
        following = next(self._decoded, None)
        while following is not None and (self._own_time_s(following) or 0.0) <= own_s:
            self._next, following = following, next(self._decoded, None)
        if following is not None:
            self._decoded = itertools.chain((following,), self._decoded)
        return True

    def frames_on(self) -> Iterator[tuple[float, Pixels]]:
        """The frames from the place that was sought on: each one's own time, in seconds from the first
        frame's, and its pixels, as `frames` gives them."""
        while self._next is not None:
            frame, self._next = self._next, next(self._decoded, None)
            yield (self._own_time_s(frame) or 0.0) - (self._begins_s or 0.0), self._pixels(frame)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded, those behind damaged ones too."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except _UNREADABLE as exc:
                self._failure = exc.strerror or str(exc)
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except _UNREADABLE:
                self._lost += 1
                continue
            yield from (frame for frame in frames if isinstance(frame, av.VideoFrame))

    def _own_time_s(self, frame: av.VideoFrame | None, end: bool = False) -> float | None:
        """When a frame begins, or ends; None where the file does not tell. AVI has times of decoding."""
        if frame is None:
            return None
        ticks = frame.dts if self._container.format.name == "avi" else frame.pts
        base = frame.time_base or self._stream.time_base
        if ticks is None or base is None:
            return None
        return float((ticks + (frame.duration or 0 if end else 0)) * base)

    def _pixels(self, frame: av.VideoFrame) -> Pixels:
        pixels = self._deep_grey(frame) if _is_deep_grey(frame) else self._rgb(frame)
        turns = round(frame.rotation / 90) % 4  # anticlockwise
        return np.ascontiguousarray(np.rot90(pixels, turns), np.uint8)

    def _rgb(self, frame: av.VideoFrame) -> Pixels:
        return np.asarray(frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray(), np.uint8)

    def _deep_grey(self, frame: av.VideoFrame) -> Pixels:
        """Grey of 16 bits, whose range the first frame sets, as RGB uint8 [H, W, 3]."""
        values = frame.reformat(format="gray16le").to_ndarray()[..., None]
        if self._scale is None:
            self._scale = find_range([values], values.size)
            self._convert = self._scale.converter()
        return np.repeat(self._convert(values), 3, 2)

    def _losses(self) -> Iterator[str]:
        name = printable(self._path.name)
        if self._failure is not None:
            yield f"{name} cannot be read to its end ({self._failure}): {self._how_much()} could be read"
        elif self._lacks_frames() and self._is_cut():
            yield f"{name} ends early: {self._how_much()} could be read"
        elif self._lost or self._patched:
            yield (
                f"{name} is damaged: {_frames(self._read)} could be read, {self._patched} of them in part, "
                f"and {self._lost} could not"
            )
        elif self._breaks_off():
            yield f"{name} ends early, though not its file: {self._how_much()} could be read"

    def _oddities(self, times: RisingTimes) -> Iterator[str]:
        """What is odd about times and values in the file."""
        name = printable(self._path.name)
        if times.beginnings:
            times_of = "once" if times.beginnings == 1 else f"{times.beginnings} times"
            yield f"the clock of {name} begins anew {times_of}: its parts follow each other without a gap"
        if self._scale and (scale := self._scale.told()):
            yield f"values that are shown as black to white: {name} ({scale}, by its first frame)"
        if times.gaps:
            gaps = (f"{start_s:.1f} to {end_s:.1f} s" for start_s, end_s in times.gaps)
            yield f"{name} has no frames for a long time: {some_of(gaps)}"

    def _lacks_frames(self) -> bool:
        if self.count is not None:
            return self._read < self._indexed
        return self._end_s + 1.5 / self.fps < self.duration_s

    def _is_cut(self) -> bool:
        """Whether the file is shorter than it says itself."""
        actual = os.fstat(self._file.fileno()).st_size
        return max(declared_bytes(self._file) or 0, self._index_end()) > actual

    def _breaks_off(self) -> bool:
        """Whether frames are missing from a file that is as long as it should be: of one that was never
        written to its end only the space is there.

        Where the end is not of zeros, an index has to say that clearly more frames were meant: the last one
        may be shown for long, and a sound may be longer than its pictures.
        """
        kind = self._container.format.name
        if kind == "gif":
            return gif_breaks_off(self._file)
        if ends_in_zeros(self._file):
            return not self._joinable and self._lacks_frames()
        if not kind.startswith(_INDEXED) or self._own_end_s is None or not self._stream.duration:
            return False
        few = self.count is None or self._read < _MOST * self._indexed
        begins = self._stream.start_time or 0
        ends_s = float((begins + _MOST * self._stream.duration) * (self._stream.time_base or 0))
        return few and self._own_end_s < ends_s

    @property
    def _joinable(self) -> bool:
        """Whether files of this format may be joined, so that none says how long it is: FFmpeg takes that
        from the times at the end."""
        return bool(self._container.format.flags & _TS_DISCONT)

    def _how_much(self) -> str:
        if self.count is not None and self._read < self._indexed:
            return f"{self._read} of {self._indexed} frames"
        end_s = self._end_s + 1 / self.fps
        if end_s < self.duration_s:
            return f"{_frames(self._read)}, {end_s:.1f} of {self.duration_s:.1f} s,"
        return _frames(self._read)

    @property
    def _indexed(self) -> int:
        """Frames that can be shown: an edit list leaves some of those out that the file counts."""
        return len(list(_index_of_mp4(self._container, self._stream))) or self.count or 0

    def _index_end(self) -> int:
        """Where the last byte of a frame lies, by the index of an MP4; 0 for others."""
        entries = _index_of_mp4(self._container, self._stream)
        return max((entry.pos + entry.size for entry in entries), default=0)


def is_video(path: Path) -> bool:
    """Whether the content is that of a video, whatever the file is called."""
    try:
        VideoReader(path).close()
    except InputError:
        return False
    return True


def _open_file(path: Path) -> io.FileIO:
    try:
        file = io.FileIO(path)
    except OSError as exc:
        raise InputError(f"{path} cannot be read ({exc.strerror})") from exc
    file.name = "video"  # FFmpeg sees this name alone, and knows formats by their content
    return file


def _open_container(file: io.FileIO, path: Path) -> InputContainer:
    try:
        return av.open(file, "r", metadata_errors="ignore", options=_OPTIONS, buffer_size=_BUFFER_BYTES)
    except av.error.FFmpegError as exc:
        raise InputError(_why_not(file, path)) from exc
    except OSError as exc:
        raise InputError(f"{path} cannot be read ({exc.strerror})") from exc


def _why_not(file: BinaryIO, path: Path) -> str:
    file.seek(0)
    head = file.read(START_BYTES).lstrip(b"\xef\xbb\xbf")
    if not head:
        return f"{path} is empty"
    if head.startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"v=0")):
        return f"{path} is a list of other files or streams; give one of these as the source"
    if lacks_index(file):
        return (
            f"{path} has no index (moov), so it was cut off or never closed by what recorded it; copy it "
            "again, or repair it with a tool like untrunc"
        )
    what = not_a_video(head)
    return (
        f"{path} cannot be opened as a video{f': {what}' if what else f'; supported are {in_order(VIDEOS)}'}"
    )


def _best_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream that players show. The cover of a piece of music is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        holds = "sound" if container.streams.audio else "no pictures"
        raise InputError(f"{path} is no video: it holds {holds} alone")
    return stream


def _frames(count: int) -> str:
    return f"{count} frame" + "s" * (count != 1)


def _is_deep_grey(frame: av.VideoFrame) -> bool:
    """Whether it is grey of 16 bits, in which cameras put fewer, or temperatures."""
    return frame.format.name.startswith("gray16")


def _rate(stream: VideoStream) -> float:
    rates = (stream.average_rate, stream.guessed_rate)
    return next((float(rate) for rate in rates if rate and rate <= _MAX_FPS), _DEFAULT_FPS)


def _count(stream: VideoStream, fps: float) -> int | None:
    """Frames by the index. A fragmented MP4 counts those of its first fragment there."""
    if not stream.frames:
        return None
    if stream.duration and stream.time_base:
        expected = float(stream.duration * stream.time_base) * fps
        return stream.frames if stream.frames > 0.5 * expected else None
    return stream.frames


def _index_of_mp4(container: InputContainer, stream: VideoStream) -> Iterable[IndexEntry]:
    return stream.index_entries if container.format.name.startswith("mov") else ()
