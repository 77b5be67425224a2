"""What becomes of a frame: its picture and its objects, as sinks write them and viewers see them."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.frames.sources import Frame
from runtime.objects.follower import RecentFrame
from runtime.objects.masks import Mask
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import TrackState
from runtime.objects.trust import UNJUDGED, Trust


@dataclass(frozen=True)
class Choice:
    """One of the masks that a point alone may mean: bool [h, w] of the whole frame, of its size or smaller,
    and how it is rated."""

    mask: Mask
    iou: float


@dataclass(frozen=True)
class ObjectResult:
    """One object on one frame. `mask` is bool [H, W] in frame pixels, None while the object is lost.

    `colour` indexes runtime.results.sinks.PALETTE and stays with the object; `iou` is what the decoder thinks
    of the mask, `prompt` what it was asked, None while the object is lost; `trust` says how sure the mask is.
    `choices` are what its only point may mean, on a frame that stands still and has this point.
    """

    name: str
    colour: int
    state: TrackState
    iou: float
    mask: Mask | None
    prompt: Prompt | None = None
    trust: Trust = UNJUDGED
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class FrameResult:
    """A finished frame with its objects.

    `doubtful`: a site that was found to lie had a part in its masks. `kept` are its windows that did not
    leave. `latency_s` from its capture until all sinks had it; 0 until then. `recent` is the frame as it was
    computed, None for one that was lost; `lost` is why its picture could not be read, and is blank.
    """

    frame: Frame
    objects: tuple[ObjectResult, ...]
    doubtful: bool = False
    kept: frozenset[int] = frozenset()
    latency_s: float = 0.0
    recent: RecentFrame | None = None
    lost: str | None = None

    @property
    def number(self) -> int:
        return self.frame.number
