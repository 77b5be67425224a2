"""What a running loop shows to whoever watches it, and how they steer it.

The loop implements Live; the preview page, and anything else that watches, uses nothing but this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import numpy as np
import numpy.typing as npt

T = TypeVar("T")


@dataclass(frozen=True)
class ShownObject:
    """One object on one frame. `mask` is bool [H, W] in frame pixels, None while the object is lost.

    `state` is "tracked", "carried" (the mask was moved along, not computed) or "lost"; `iou` is what the
    decoder thinks of the mask; `colour` indexes runtime.sinks.PALETTE and stays with the object.
    """

    name: str
    colour: int
    state: str
    iou: float
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Shown:
    """A finished frame, RGB uint8 [H, W, 3], with its objects; `latency_s` from its capture to now."""

    number: int
    time_s: float
    latency_s: float
    pixels: npt.NDArray[np.uint8]
    objects: tuple[ShownObject, ...]


@dataclass(frozen=True)
class Request:
    """What a viewer asks to be segmented, in pixels of the frame `number` on which it was drawn.

    `name` None starts an object and lets the loop name it; the name of an object adds the points to its own
    and replaces its box.
    """

    number: int
    name: str | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    box_xyxy: tuple[float, float, float, float] | None = None


class Newest(Generic[T]):
    """Hands its newest value to any number of readers, each at its own pace; older values are dropped."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.version = 0
        self._news = anyio.Event()

    def put(self, value: T) -> None:
        """Replace the value and wake every reader that waits. Call it on the event loop."""
        self.value, self.version = value, self.version + 1
        self._news.set()
        self._news = anyio.Event()

    async def after(self, version: int) -> tuple[int, T]:
        """The newest value and its version, as soon as that is greater than `version`."""
        while self.value is None or self.version <= version:
            await self._news.wait()
        return self.version, self.value


class Live(ABC):
    """A running loop. Everything here is called on its event loop and returns at once, unless it is async."""

    @property
    @abstractmethod
    def frames(self) -> Newest[Shown]:
        """Finished frames. While nothing is to be segmented, or paused, the source's own frames, bare."""

    @property
    @abstractmethod
    def paused(self) -> bool: ...

    @abstractmethod
    async def prompt(self, request: Request) -> str:
        """Segment what was asked for, from the frame it was asked on; returns the object's name.

        Raises InputError in one sentence when the request cannot be right (outside the frame, unknown name).
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget an object. Raises InputError when there is none of this name."""

    @abstractmethod
    def rename(self, name: str, new: str) -> None:
        """Give an object another name. Raises InputError when that is taken, empty or too long."""

    @abstractmethod
    def pause(self, paused: bool) -> None:
        """Send nothing more to any site, from the next window on, until it is called with False."""

    @abstractmethod
    def status(self) -> Mapping[str, Any]:
        """Figures for people, ready for JSON:

        fps; latency_ms (p50); limited_by;
        steps: {"read" | "windows" | "global" | "decode" | "write": ms a frame}, all of the last seconds;
        dropped, lost (frames), windows_run_at_edge, all since the start;
        paused; message (newest line for a person, or None);
        sites: [{name, operator, state, tiles, in_flight, bytes_up, bytes_down, last_error}];
        grid: side of the window grid (5); windows: [{index, sent: bool, operators: [name, ...] that saw it}],
        where `sent` False means padding that never leaves; caps: {operator: cap}.
        """
