"""Small videos, written by PyAV: any codec, container and times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

MS = Fraction(1, 1000)
RATE_HZ = 48000
SOUNDS = {".avi": "pcm_s16le", ".mxf": "pcm_s16le", ".webm": "libopus", ".wmv": "pcm_s16le", ".mpg": "mp2"}


def picture(number: int, size: tuple[int, int] = (48, 64)) -> npt.NDArray[np.uint8]:
    """RGB [H, W, 3] that differs with every number and is not alike from any side."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x * 3 + number * 5, y * 4, x + y + number * 9], -1).astype(np.uint8)


def clip(
    path: Path,
    frames: int = 30,
    *,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    fps: int = 10,
    times_ms: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    sound_s: int = 0,
    values: npt.NDArray[np.uint16] | None = None,
    **settings: Any,
) -> Path:
    """Writes a video; `settings` are those of the encoder, `container` those of the file, `sound_s` the
    seconds of silence beside it. Each frame is a `picture`, or `values` [H, W] of grey of 16 bits."""
    if values is not None:
        size = values.shape
    with path.open("wb") as file, av.open(file, "w", format=_format(path), options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options={k: str(v) for k, v in settings.items()})
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = MS if times_ms else Fraction(1, fps)
        silence = output.add_stream(SOUNDS.get(path.suffix, "aac"), rate=RATE_HZ) if sound_s else None
        for number in range(frames):
            frame = _frame(picture(number, size), pixels) if values is None else _grey(values)
            frame.pts = times_ms[number] if times_ms else number
            frame.time_base = stream.codec_context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if silence is not None:
            for second in range(sound_s):
                output.mux(silence.encode(_silence(second)))
            output.mux(silence.encode())
    return path


def _frame(rgb: npt.NDArray[np.uint8], pixels: str) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)


def _grey(values: npt.NDArray[np.uint16]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(values, format="gray16le")


def _silence(second: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE_HZ), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, second * RATE_HZ, Fraction(1, RATE_HZ)
    return frame


def sound(path: Path, cover: bool = False) -> Path:
    """A moment of silence, and no picture but a cover."""
    with path.open("wb") as file, av.open(file, "w", format=_format(path)) as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        if cover:
            art = output.add_stream("mjpeg", rate=1)
            art.height, art.width, art.pix_fmt = 48, 64, "yuvj420p"
            art.disposition = Disposition.attached_pic
            output.mux(art.encode(_frame(picture(0), "yuvj420p")))
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """Keeps the first part of a file, as a copy that broke off does."""
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return path


def blanked(path: Path, share: float) -> Path:
    """Leaves the first part of a file and zeros behind it, as an unfinished copy of full size has."""
    size = path.stat().st_size
    cut(path, share)
    os.truncate(path, size)
    return path


def _format(path: Path) -> str:
    names = {".mkv": "matroska", ".ts": "mpegts", ".mpg": "mpeg", ".m4a": "mp4", ".wmv": "asf"}
    return names.get(path.suffix, path.suffix[1:])
