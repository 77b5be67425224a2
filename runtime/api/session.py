"""A session for asyncio: an edge that is open, and what a program does with it.

`runtime.api.synchronous` is the same for programs without a loop.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy.typing as npt
from anyio import to_thread

from runtime.api.arguments import (
    Frame,
    ImageFormat,
    PromptEntries,
    Size,
    check_inside,
    objects_of,
    pixels_of,
    prompts_of,
)
from runtime.api.core import Core
from runtime.api.embedding import decode_all, masks_of
from runtime.api.errors import ArgumentError
from runtime.api.exposure import Exposure
from runtime.api.held_edge import LOG
from runtime.api.masks import Masks
from runtime.api.one_process import OfOneProcess
from runtime.api.predictor import AsyncPredictor
from runtime.api.tracker import AsyncTracker, Frames
from runtime.api.tracking import Following
from runtime.edge import EdgeOptions
from runtime.objects.follower import RECENT_FRAMES
from stages.bundle import Bundle


class AsyncSession(OfOneProcess):
    """What `pedsam.open_async` gives: use it inside `async with`, on one event loop of asyncio.

    Any number of tasks may call it at once. Every method raises SessionClosed before and after that, and a
    PedsamError, one sentence long, for whatever goes wrong; ArgumentError among them is a ValueError too. A
    site that fails or hangs has its own time limit, after which another one or the edge takes over, or
    FrameLost is raised.
    """

    def __init__(self, bundle: Bundle, options: EdgeOptions, sizes: frozenset[Size], films: bool) -> None:
        self._core = Core(bundle, options, sizes, films)

    async def __aenter__(self) -> AsyncSession:
        await self._core.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def model(self) -> str:
        """Which bundle it is, as "mini (distilled weights, dct:10/3)"."""
        return self._core.bundle.description

    @property
    def closed(self) -> bool:
        return self._core.closed

    async def close(self) -> None:
        """Cancel what is under way and close everything; calling it again does nothing."""
        await self._core.close()

    async def segment(
        self,
        frame: Frame,
        *,
        boxes: npt.ArrayLike | None = None,
        points: Any = None,
        labels: Any = None,
        multimask: bool = False,
        image_format: ImageFormat = "RGB",
    ) -> Masks:
        """Masks of N objects on one frame. See Session.segment."""
        prompts = prompts_of(boxes, points, labels)
        self._core.require_open()
        pixels = await to_thread.run_sync(pixels_of, frame, image_format)
        height, width = pixels.shape[:2]
        check_inside(prompts, height, width)
        for doubt in filter(None, (prompt.doubt() for prompt in prompts)):
            LOG.warning(doubt)
        embedded = await self._core.embed(pixels)
        edge = self._core.edge
        logits, scores = await self._core.run(decode_all(edge, embedded, prompts))
        doubtful = edge.encoder.doubts.has(embedded.number, embedded.sites)
        return await to_thread.run_sync(masks_of, embedded, prompts, logits, scores, multimask, doubtful)

    def predictor(self) -> AsyncPredictor:
        """A predictor with the methods of SamPredictor, to be awaited. See Session.predictor."""
        self._core.require_open()
        return AsyncPredictor(self._core)

    def track(
        self,
        frames: Frames,
        prompts: PromptEntries = (),
        *,
        keyframe_every: int = 1,
        in_flight: int = 1,
        image_format: ImageFormat = "RGB",
    ) -> AsyncTracker:
        """Follow objects through frames: an iterator over a TrackedFrame for each, in their order.

        `frames` may be an asynchronous iterable too; another one is read in a thread. See Session.track.
        """
        return AsyncTracker(self._following(prompts, keyframe_every, in_flight), frames, image_format)

    def exposure(self) -> Exposure:
        """What each operator has seen, and may see. See Session.exposure."""
        return self._core.exposure()

    def _following(self, prompts: PromptEntries, keyframe_every: int, in_flight: int) -> Following:
        self._core.require_open()
        if keyframe_every < 1 or not 1 <= in_flight <= RECENT_FRAMES:
            raise ArgumentError(f"keyframe_every is at least 1, and in_flight 1 to {RECENT_FRAMES}")
        if not self._core.films:
            raise ArgumentError("the session is for single pictures: to follow, open one without films=False")
        return Following(self._core, objects_of(prompts), keyframe_every, in_flight)
