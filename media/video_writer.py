"""Writing video files: H.264 in MP4, by PyAV, and MPEG-4 part 2 where its FFmpeg has no encoder of H.264.

The file is written in fragments of GROUP_S, each of which can be played once it is written: what is left of a
process that was killed plays up to its last seconds. `close` turns the fragments into an ordinary MP4 file.
Bytes go through a DurableFile, so that any name can be written and no failing write is missed.

H.264 takes about half the time of MPEG-4 part 2 by OpenCV, and a third of the bytes (benchmarks.media).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

from stages.durable import DurableFile
from stages.errors import InputError
from stages.files import writing

MAX_VIDEO_SIDE_PX = 16384  # of H.264's encoder
GROUP_S = 2.0  # from one key frame to the next, and of a fragment
_MAX_GAP_HOURS = 6  # MP4 holds durations of a frame up to 2**31 ticks
_FLAGS = "hybrid_fragmented+frag_keyframe+empty_moov+default_base_moof"
_BT601, _LIMITED = 6, 1  # what OpenCV converts to, as ISO/IEC 23091-2 numbers it
_TYPICAL_FPS = 10.0  # where the rate is not known


@dataclass(frozen=True)
class Encoder:
    """One of FFmpeg's, by its name there: how many ticks of its clock are a second, how many pixels a side it
    takes, and its options."""

    name: str
    ticks_hz: int
    max_side_px: int
    options: Mapping[str, str]

    @property
    def is_there(self) -> bool:
        """Whether this PyAV has it."""
        try:
            return bool(av.Codec(self.name, "w").is_encoder)
        except (ValueError, av.error.FFmpegError):
            return False


H264 = Encoder(
    "libx264", 90_000, MAX_VIDEO_SIDE_PX, {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}
)
MPEG4 = Encoder("mpeg4", 30_000, 8191, {"qmin": "4", "qmax": "4", "g": "600"})  # one quality, few key frames
ENCODERS = (H264, MPEG4)  # the first that is there is used


class VideoWriter:
    """Writes pictures at their own times into an MP4 file. It blocks; use it from one thread at a time.

    The first picture, RGB uint8 [H, W, 3], sets the size; odd sides get one more row or column, since both
    encoders store colour for every second one. A later picture of another size is fitted in. `fps` is only
    used where times say nothing. Raises InputError for pictures too large, for a PyAV that writes no videos,
    and for whatever cannot be written; after that nothing more is written, and what was stays as it is.
    `warn` gets a sentence at each gap that MP4 cannot hold, always the same, and one where the video is no
    H.264.
    """

    def __init__(
        self, path: Path, fps: float | None = None, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        known = fps is not None and math.isfinite(fps) and fps > 0
        self._path = path
        self._encoder = _best_encoder()
        self._ticks = _GrowingTicks(fps if known and fps else _TYPICAL_FPS, self._encoder.ticks_hz)
        self._output: _Output | None = None
        self._failed = False
        self._warn = warn

    def write(self, picture: npt.NDArray[np.uint8], time_s: float) -> None:
        """`time_s` counts from any moment; the file begins with its first picture."""
        with self._failing():
            if self._output is None:
                self._output = _Output(self._path, picture.shape[0], picture.shape[1], self._encoder)
                if self._encoder is not H264:
                    self._warn(
                        f"{self._path} is MPEG-4 part 2, which VLC and ffmpeg play and browsers do not: this "
                        f"PyAV has no {H264.name} for H.264; install its own wheel: pip install av"
                    )
            if self._ticks.shortens(time_s):
                self._warn(
                    f"{self._path} shows gaps of more than {_MAX_GAP_HOURS} hours between frames as "
                    f"{_MAX_GAP_HOURS} hours"
                )
            self._output.encode(picture, self._ticks.ticks(time_s))

    def close(self) -> None:
        """Complete the file. After a failure it only lets go of it."""
        if self._output is None:
            return
        if self._failed:
            self._output.abandon()
            return
        try:
            with self._failing():
                self._output.finish(self._ticks.mean_ticks())
        except InputError:
            self._output.abandon()
            raise

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            with writing(self._path):
                yield
        except av.error.FFmpegError as exc:
            self._failed = True
            raise InputError(f"cannot write {self._path}; the encoder failed ({exc.strerror})") from exc
        except InputError:
            self._failed = True
            raise


class _GrowingTicks:
    """Times as ticks, of which `hz` are a second, that always grow. One that is no number or lies before the
    last one is taken as a typical interval after it, and a gap of more than _MAX_GAP_HOURS as that."""

    def __init__(self, fps: float, hz: int) -> None:
        self._hz = hz
        self._max_gap = _MAX_GAP_HOURS * 3600 * hz
        self._typical = min(self._max_gap, max(1, round(hz / fps)))
        self._origin_s = 0.0  # what is tick 0
        self._last: int | None = None
        self._frames = 0

    def ticks(self, time_s: float) -> int:
        self._last = self._next(time_s)
        self._frames += 1
        return self._last

    def shortens(self, time_s: float) -> bool:
        """Whether the gap before it will be cut."""
        return self._last is not None and math.isfinite(time_s) and self._gap(time_s) > self._max_gap

    def mean_ticks(self) -> int:
        """The mean interval, for the last frame's duration."""
        if self._frames < 2 or self._last is None:
            return self._typical
        return min(self._max_gap, max(1, round(self._last / (self._frames - 1))))

    def _next(self, time_s: float) -> int:
        if self._last is None:
            self._origin_s = time_s if math.isfinite(time_s) else 0.0
            return 0
        if not math.isfinite(time_s):
            return self._last + self._typical
        gap = self._gap(time_s)
        taken = min(gap, self._max_gap) if gap >= 0 else self._typical
        self._origin_s += (gap - taken) / self._hz
        return self._last + max(1, taken)

    def _gap(self, time_s: float) -> int:
        """Ticks since the last time."""
        return round((time_s - self._origin_s) * self._hz) - (self._last or 0)


class _Target:
    """A DurableFile as PyAV writes to it. It raises nothing, since FFmpeg goes on after an error, and PyAV
    prints every further one: `error` is the first, after which nothing is written."""

    def __init__(self, path: Path) -> None:
        self.file = DurableFile(path)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as exc:
                self.error = exc
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.error is None:
            try:
                return self.file.seek(offset, whence)
            except OSError as exc:
                self.error = exc
        return offset

    def tell(self) -> int:
        return self.file.tell()

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


class _Output:
    """An open file of one size, its encoder, and the newest packet, whose duration is not known yet."""

    def __init__(self, path: Path, height: int, width: int, encoder: Encoder) -> None:
        if max(height, width) > encoder.max_side_px:
            raise InputError(
                f"cannot write {path}: a video holds at most {encoder.max_side_px} pixels a side, and the "
                f"picture is {width} x {height}; make it smaller, or give pictures one by one"
            )
        self._size = (height + height % 2, width + width % 2)
        self._target = _Target(path)
        try:
            self._container: OutputContainer = av.open(
                self._target, "w", format="mp4", options={"movflags": _FLAGS, "flush_packets": "1"}
            )
            self._stream = _stream(self._container, *self._size, encoder)
        except BaseException:
            with contextlib.suppress(OSError):
                self._target.file.close()
            raise
        self._hz = encoder.ticks_hz
        self._newest: Packet[VideoStream] | None = None
        self._key_at: int | None = None

    def encode(self, picture: npt.NDArray[np.uint8], ticks: int) -> None:
        frame = av.VideoFrame.from_ndarray(_i420(picture, *self._size), format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, self._hz)
        if self._key_at is None or ticks - self._key_at >= GROUP_S * self._hz:
            frame.pict_type = PictureType.I
            self._key_at = ticks
        self._mux(self._stream.encode(frame))

    def finish(self, last_ticks: int) -> None:
        """Write what is left and the index; the last frame is shown for `last_ticks`."""
        self._mux(self._stream.encode(None))
        if self._newest is not None:
            self._newest.duration = last_ticks
            self._container.mux(self._newest)
        self._container.close()
        self._target.raise_error()
        self._target.file.close()

    def abandon(self) -> None:
        """Close the file. Nothing more is written into one that could not be written."""
        with contextlib.suppress(av.error.FFmpegError):
            self._container.close()
        with contextlib.suppress(OSError):
            self._target.file.close()

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if self._newest is not None:
                self._newest.duration = (packet.pts or 0) - (self._newest.pts or 0)
                self._container.mux(self._newest)
                self._target.raise_error()
                self._target.file.keep()
            self._newest = packet


def largest_side_px() -> int:
    """The longest side of a picture that a video can hold here. Raises InputError like VideoWriter."""
    return _best_encoder().max_side_px


def _best_encoder() -> Encoder:
    for encoder in ENCODERS:
        if encoder.is_there:
            return encoder
    names = " nor ".join(encoder.name for encoder in ENCODERS)
    raise InputError(
        f"this PyAV has neither {names}, one of which writes videos; install its own wheel: pip install av"
    )


def _stream(container: OutputContainer, height: int, width: int, encoder: Encoder) -> VideoStream:
    stream = container.add_stream(encoder.name, rate=30, options=dict(encoder.options))
    if not isinstance(stream, VideoStream):
        raise TypeError(f"{encoder.name} encodes no video")
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = Fraction(1, encoder.ticks_hz)
    context = stream.codec_context
    context.time_base = Fraction(1, encoder.ticks_hz)
    context.thread_count = 1  # the other cores belong to the model
    context.colorspace, context.color_range = _BT601, _LIMITED
    return stream


def _i420(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """RGB [H, W, 3] as planes of Y, U and V one below the other, uint8 [height * 3 / 2, width]."""
    rows, columns = height - picture.shape[0], width - picture.shape[1]
    if not (0 <= rows <= 1 and 0 <= columns <= 1):
        picture = _fitted(picture, height, width)
    elif rows or columns:
        picture = np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="edge")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)


def _fitted(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The whole picture in its own shape, uint8 [height, width, 3], with black beside or below it."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
    result = np.zeros((height, width, 3), np.uint8)
    result[:rows, :columns] = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    return result
