"""What a running pipeline shows to whoever watches it, and how they steer it.

LivePipeline implements Live; the preview, and anything else that watches, uses nothing but this.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod

from runtime.frames.player import Player
from runtime.live.held_tiles import HeldTiles
from runtime.live.newest import Newest
from runtime.live.status import Status
from runtime.objects.prompts import PromptRequest, Prompts
from runtime.results.result import FrameResult, ObjectResult
from stages.geometry import Geometry


class Live(ABC):
    """A running pipeline. Everything here is called on its event loop and returns at once, unless it is
    async."""

    @property
    @abstractmethod
    def frames(self) -> Newest[FrameResult]:
        """Finished frames. While nothing is to be segmented, or paused, the source's own frames, without
        objects."""

    @property
    @abstractmethod
    def object_names(self) -> tuple[str, ...]:
        """The objects that are looked for, also while frames come without them: paused, or lost."""

    @property
    @abstractmethod
    def held(self) -> HeldTiles:
        """What each operator was sent, for pictures of it."""

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Of the model, for where windows lie."""

    @property
    @abstractmethod
    def paused(self) -> bool: ...

    @abstractmethod
    async def prompt(self, request: PromptRequest) -> str:
        """Segment what was asked for, from the frame it was asked on; returns the object's name.

        Raises InputError in one sentence when the request cannot be right (outside the frame, unknown name)
        or objects cannot be changed in this run.
        """

    @abstractmethod
    async def confirm(self, name: str, number: int) -> None:
        """An object's mask on a frame is right: clear its mark and follow it from there.

        Raises InputError when there is no such object or frame, or as `prompt` does.
        """

    @abstractmethod
    def prompts(self) -> Prompts:
        """The objects as they were asked for, as a prompts file of a later run may hold them."""

    @abstractmethod
    async def would_find(self, request: PromptRequest) -> ObjectResult | None:
        """What `prompt` would find on the frame of the request, as an object without a name; nothing is
        changed, and nothing leaves. None where that frame is not computed, or gone.

        Raises InputError as `prompt` does.
        """

    @abstractmethod
    async def choose(self, name: str, mask: int) -> None:
        """Take mask 1, 2 or 3 of those that an object's only point may mean. Raises InputError as `prompt`
        does, and where there is no such choice."""

    @abstractmethod
    def undo(self) -> str:
        """Take the newest prompt, choice or removal back; returns the name of its object. Raises InputError
        where there is none."""

    @abstractmethod
    def redo(self) -> str:
        """Do again what was undone last. Raises InputError as `undo` does."""

    @abstractmethod
    def holding(self, result: FrameResult) -> contextlib.AbstractContextManager[Newest[FrameResult]]:
        """A frame that a viewer works on while others come: it is computed if it was not and something may be
        found on it, and is newer whenever its objects change. Raises InputError for a frame that was lost."""

    @property
    @abstractmethod
    def player(self) -> Player | None:
        """How to go through a file; None for what comes by itself."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget an object. Raises InputError when there is none of this name, or as `prompt` does."""

    @abstractmethod
    def rename(self, name: str, new: str) -> None:
        """Give an object another name. Raises InputError when that is taken, empty or too long, or as
        `prompt` does."""

    @abstractmethod
    def pause(self, paused: bool) -> None:
        """Send nothing more to any site, from the next window on, until it is called with False."""

    @abstractmethod
    def status(self) -> Status:
        """Figures for people."""
