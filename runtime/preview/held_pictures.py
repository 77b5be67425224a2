"""What an operator holds, as a picture that viewers get: made only while somebody waits for one.

At most one is made every EVERY_S, for all viewers and operators together; who waits for the same gets the
same. The picture is PNG: JPEG would blur what the operator has.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import anyio
import cv2
from anyio import to_thread

from runtime.live.held_tiles import Held
from runtime.live.interface import Live
from runtime.preview import protocol
from runtime.sites.areas import Areas
from stages.errors import InputError
from stages.tensors import Pixels

EVERY_S = 0.5


@dataclass(frozen=True)
class HeldPicture:
    """What an operator holds; `number` grows with every tile that it is sent, `share` is that of the picture,
    0..1. `png` is empty where no pixels leave."""

    operator: str
    number: int
    held: Held
    share: float
    png: bytes

    def message(self, now_s: float) -> bytes:
        """As the protocol has it, at a time of the clock of HeldTiles."""
        windows = [
            {"index": window, "age_s": round(now_s - tile.sent_s, 2)}
            for window, tile in sorted(self.held.items())
        ]
        header = {
            "operator": self.operator,
            "number": self.number,
            "share": round(self.share, 4),
            "windows": windows,
            "pixels": bool(self.png),
        }
        return protocol.encode_picture("holds", header, self.png)


class HeldEncoder:
    """Makes pictures of what operators hold, at most one every `every_s`, and keeps the last of each."""

    def __init__(self, live: Live, every_s: float = EVERY_S) -> None:
        self._live = live
        self._every_s = every_s
        self._lock = anyio.Lock()
        self._last: dict[str, HeldPicture] = {}
        self._made_s = -math.inf  # time.monotonic
        self.encoded = 0  # pictures so far

    def check(self, operator: str) -> None:
        """Raise InputError when there is no such operator."""
        if operator not in self._live.status().caps:
            raise InputError(f"there is no operator {ascii(operator)[:60]}")

    async def after(self, operator: str, number: int) -> bytes:
        """The message with the newest picture of an operator, as soon as it is newer than `number`.

        Raises InputError like `check`.
        """
        self.check(operator)
        await self._live.held.by(operator).after(number)
        async with self._lock:
            picture = self._last.get(operator)
            if picture is None or picture.number <= number or self._wait_s() == 0:
                picture = await self._newest(operator, picture)
        return picture.message(self._live.held.clock())

    def _wait_s(self) -> float:
        """Until the next picture may be made."""
        return max(0.0, self._made_s + self._every_s - time.monotonic())

    async def _newest(self, operator: str, last: HeldPicture | None) -> HeldPicture:
        """The newest picture, which is the last one where nothing was sent since."""
        await anyio.sleep(self._wait_s())
        _, shown = await self._live.frames.after(0)
        number, held = await self._live.held.by(operator).after(0)
        if last is not None and last.number == number:
            return last
        height, width = shown.frame.pixels.shape[:2]
        share = Areas.of(self._live.geometry, [(height, width)]).share(held)
        png = await to_thread.run_sync(self._encode, held, height, width)
        self._last[operator] = HeldPicture(operator, number, held, share, png)
        self._made_s = time.monotonic()
        self.encoded += 1
        return self._last[operator]

    def _encode(self, held: Held, height: int, width: int) -> bytes:
        pixels = self._live.held.picture(held, height, width)
        return b"" if pixels is None else _png(pixels)


def _png(pixels: Pixels) -> bytes:
    # Without parameters OpenCV filters and packs runs only: half the time of any level of its compression.
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        raise RuntimeError("OpenCV cannot write PNG")
    return data.tobytes()
