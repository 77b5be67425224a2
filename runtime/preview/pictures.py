"""Frames as viewers get them, encoded once for all, and only while somebody waits for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import cv2
import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.frames.sources import Frame
from runtime.live.newest import Newest
from runtime.objects.masks import Mask, encode_mask
from runtime.preview import protocol
from runtime.results.result import FrameResult, ObjectResult
from stages.geometry import Geometry


@dataclass(frozen=True)
class EncodedFrame:
    """A frame message, and what it was made of; `version` is that of the frame in Newest."""

    version: int
    result: FrameResult
    message: bytes

    @property
    def number(self) -> int:
        return self.result.number


class FrameEncoder:
    """Encodes frames: pictures of at most `longest_px` on their longest side, as JPEG of `quality`. Their
    windows are those of `geometry`."""

    def __init__(
        self, frames: Newest[FrameResult], geometry: Geometry, longest_px: int, quality: int
    ) -> None:
        self._frames = frames
        self._geometry = geometry
        self._longest_px = longest_px
        self._quality = quality
        self._lock = anyio.Lock()
        self._last: EncodedFrame | None = None
        self._jpeg: tuple[Frame | None, bytes] = (None, b"")  # of the last frame
        self._objects: list[tuple[ObjectResult, dict[str, Any]]] = []  # of the last frame, as described
        self.encoded = 0  # frames so far

    async def after(self, version: int) -> EncodedFrame:
        """The newest frame, as soon as it is newer than `version`."""
        await self._frames.after(version)
        async with self._lock:
            newest, result = await self._frames.after(version)  # there may be a newer one by now
            if self._last is None or newest != self._last.version:
                message = await to_thread.run_sync(self._encode, result)
                self._last = EncodedFrame(newest, result, message)
                self.encoded += 1
            return self._last

    def of(self, frames: Newest[FrameResult]) -> FrameEncoder:
        """One like this for other frames."""
        return FrameEncoder(frames, self._geometry, self._longest_px, self._quality)

    def described(self, found: ObjectResult) -> dict[str, Any]:
        """An object as it stands in the header of its frame; it has a mask."""
        if found.mask is None:
            raise ValueError("an object without a mask does not say how large its frame is")
        return _described(found, self._size(*found.mask.shape))

    def _encode(self, result: FrameResult) -> bytes:
        pixels = result.frame.pixels
        height, width = pixels.shape[:2]
        size = self._size(height, width)
        header = {
            "number": result.number,
            "time_s": round(result.frame.time_s, 4),
            "latency_s": round(result.latency_s, 4),
            "width": width,
            "height": height,
            "doubtful": result.doubtful,
            "lost": result.lost,
            "kept": [
                {"window": window, "box": _window_box(self._geometry, window, height, width)}
                for window in sorted(result.kept)
            ],
            "objects": self._described(result.objects, size),
        }
        if self._jpeg[0] is not result.frame:
            self._jpeg = (result.frame, self._encode_jpeg(pixels, size))
        return protocol.encode_frame(header, self._jpeg[1])

    def _described(self, objects: Sequence[ObjectResult], size: tuple[int, int]) -> list[dict[str, Any]]:
        """What has changed since the last frame described, and the rest as it was: a frame that stands still
        comes again and again."""
        known = {id(found): described for found, described in self._objects}
        described = [known.get(id(found)) or _described(found, size) for found in objects]
        self._objects = list(zip(objects, described, strict=True))
        return described

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Width and height of the picture of a frame of height x width."""
        scale = min(1.0, self._longest_px / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _encode_jpeg(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> bytes:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not done:
            raise RuntimeError("OpenCV cannot write JPEG")
        return data.tobytes()


def _described(found: ObjectResult, size: tuple[int, int]) -> dict[str, Any]:
    """An object in the header; `size` is width and height of the picture, and so of the mask."""
    described: dict[str, Any] = {
        "name": found.name,
        "colour": found.colour,
        "state": found.state.value,
        "iou": round(found.iou, 4),
        **found.trust.to_json(),
        "mask": None,
        "box": None,
    }
    if found.choices:
        described["choices"] = [
            {"iou": round(choice.iou, 4), "mask": encode_mask(_resized(choice.mask, size))}
            for choice in found.choices
        ]
        described["chosen"] = _chosen(found)
    if found.mask is None or not found.mask.any():
        return described
    rle = encode_mask(_resized(found.mask, size))
    return {**described, "mask": rle, "box": _box(found.mask)}


def _chosen(found: ObjectResult) -> int:
    """Which of its choices an object's mask is, from 1 on."""
    meant = found.prompt.mask if found.prompt else None
    return meant or 1 + max(range(len(found.choices)), key=lambda place: found.choices[place].iou)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    share = cv2.resize(mask.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    return np.asarray(share > 127)


def _box(mask: Mask) -> list[int]:
    """Left, top, right, bottom of what is set in a mask, in its pixels; right and bottom lie outside."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return [left, top, left + width, top + height]


def _window_box(geometry: Geometry, window: int, height: int, width: int) -> list[int]:
    """Left, top, right, bottom of a window, in pixels of a frame of height x width."""
    rows, cols = geometry.resized(height, width)
    row, col = divmod(window, geometry.grid)
    ends = [col, row, col + 1, row + 1]
    sizes = [(cols, width), (rows, height)] * 2  # on the canvas and of the frame, along x and y
    return [
        round(min(end * geometry.tile_px, canvas_px) * frame_px / canvas_px)
        for end, (canvas_px, frame_px) in zip(ends, sizes, strict=True)
    ]
