"""Follow an object from frame to frame: each frame's prompt comes from the last frame's mask."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.canvas import Canvas
from runtime.decode import ObjectMask
from runtime.prompts import Prompt


class TrackState(enum.Enum):
    TRACKED = "tracked"
    CARRIED = "carried"
    LOST = "lost"


@dataclass(frozen=True)
class Tracked:
    """One object on one frame; `found` is None when it is lost."""

    name: str
    state: TrackState
    found: ObjectMask | None


class Still:
    """An object that is asked for with its own prompt on every frame, as pictures without order need it."""

    def __init__(self, prompt: Prompt) -> None:
        self.start = prompt

    @property
    def name(self) -> str:
        return self.start.name

    def question(self, canvas: Canvas) -> tuple[Prompt, npt.NDArray[np.float32] | None]:
        """What to ask the decoder on the next frame: a prompt, and the earlier mask [M, M] or None."""
        return self.start, None

    def update(self, found: ObjectMask, canvas: Canvas) -> Tracked:
        """Take the decoder's answer to the last question."""
        return Tracked(self.name, TrackState.TRACKED, found)


class Track(Still):
    """An object of a video."""
