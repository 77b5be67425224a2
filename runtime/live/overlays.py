"""Frames with their masks drawn in, as JPEG: encoded once for all who watch, only while somebody waits."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import cv2
from anyio import to_thread

from runtime.live.newest import Newest
from runtime.results.result import FrameResult
from runtime.results.sinks import draw_overlay

LONGEST_PX = 1280
QUALITY = 80  # JPEG's, 1 to 100


@dataclass(frozen=True)
class Overlay:
    """A frame with its masks; `version` is that of the frame in Newest."""

    version: int
    jpeg: bytes


class OverlayEncoder:
    """Makes overlays of the newest frames, of at most `longest_px` on their longest side. `banner` is drawn
    into each."""

    def __init__(
        self,
        frames: Newest[FrameResult],
        banner: str | None,
        longest_px: int = LONGEST_PX,
        quality: int = QUALITY,
    ) -> None:
        self._frames = frames
        self._banner = banner
        self._longest_px = longest_px
        self._quality = quality
        self._lock = anyio.Lock()
        self._last = Overlay(0, b"")
        self.encoded = 0  # frames so far

    async def after(self, version: int) -> Overlay:
        """The newest frame, as soon as it is newer than `version`."""
        await self._frames.after(version)
        async with self._lock:
            newest, result = await self._frames.after(version)  # there may be a newer one by now
            if newest != self._last.version:
                jpeg = await to_thread.run_sync(self._encode, result)
                self._last = Overlay(newest, jpeg)
                self.encoded += 1
            return self._last

    def _encode(self, result: FrameResult) -> bytes:
        picture = draw_overlay(result, self._banner)
        height, width = picture.shape[:2]
        scale = min(1.0, self._longest_px / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not done:
            raise RuntimeError("OpenCV cannot write JPEG")
        return data.tobytes()
