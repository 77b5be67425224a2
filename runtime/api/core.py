"""What a session, its predictors and its trackers share: the edge, opened when it can be, and its use by
turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

from anyio import to_thread

from runtime.api.arguments import Size
from runtime.api.embedding import Embedded, embed
from runtime.api.errors import ArgumentError, SessionClosed
from runtime.api.exposure import Exposure, exposure_of
from runtime.api.held_edge import CLOSED, HeldEdge
from runtime.edge import Edge, EdgeOptions
from runtime.frames.canvas import make_canvas
from runtime.keeper import OfObjects
from stages.bundle import Bundle
from stages.errors import InputError
from stages.tensors import Pixels

T = TypeVar("T")

NOT_OPEN = "the session is not open: use it inside `async with pedsam.open_async(...) as session`"


class Core:
    """An edge for frames of `sizes`; with sites and without sizes, for those of the first frame's.

    `films`: frames follow each other in time. Belongs to one event loop.
    """

    def __init__(self, bundle: Bundle, options: EdgeOptions, sizes: frozenset[Size], films: bool) -> None:
        self.bundle = bundle
        self.geometry = bundle.geometry
        self.films = films
        self.closed = False
        self._options = options
        self._sizes = sizes
        self._entered = False
        self._opening = asyncio.Lock()
        self._held: HeldEdge | None = None
        self._not_known: OfObjects | None = None
        self._numbers = count()
        self._film: object | None = None
        self._end_film: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Open the edge if it is known for what. Raises a PedsamError."""
        if self.closed:
            raise SessionClosed(CLOSED)
        self._entered = True
        if self._sizes or self._options.sites is None:
            async with self._opening:
                await self._open(self._sizes)

    async def close(self) -> None:
        """Cancel what is under way and close everything; calling it again does nothing."""
        self.closed = True
        async with self._opening:
            held, self._held = self._held, None
        if held is not None:
            await held.close()

    def require_open(self) -> None:
        """Raises SessionClosed."""
        if self.closed:
            raise SessionClosed(CLOSED)
        if not self._entered:
            raise SessionClosed(NOT_OPEN)

    @property
    def edge(self) -> Edge:
        """The open edge. Raises SessionClosed where there is none."""
        if self._held is None:
            raise SessionClosed(CLOSED)
        return self._held.edge

    async def edge_for(self, height: int, width: int) -> Edge:
        """The edge, opened where it is not yet, for frames of this size. Raises ArgumentError where caps were
        settled for others."""
        self.require_open()
        async with self._opening:
            self.require_open()
            if self._held is None:
                await self._open(frozenset({(height, width)}))
        if self._options.sites is not None:
            self._check_size(height, width)
        return self.edge

    async def embed(self, pixels: Pixels) -> Embedded:
        """The image embedding of one frame, RGB uint8 [H, W, 3], that belongs to no film. Raises
        FrameLost."""
        edge = await self.edge_for(*pixels.shape[:2])
        self.take_turn(None)
        canvas = await to_thread.run_sync(make_canvas, pixels, self.geometry)
        return await self.run(embed(edge, canvas, self.next_number(), self.not_known))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` with the edge gives; SessionClosed where the session is closed meanwhile."""
        if self._held is None:
            work.close()
            raise SessionClosed(CLOSED)
        return await self._held.run(work)

    def next_number(self) -> int:
        """Frames are numbered through all that a session does: doubts about sites go by it."""
        return next(self._numbers)

    @property
    def not_known(self) -> OfObjects:
        """For `keep_objects`, of a frame whose objects nobody follows: all its windows stay."""
        if self._not_known is None:
            raise SessionClosed(CLOSED)
        return self._not_known

    def take_turn(self, film: object | None, end: Callable[[], None] = lambda: None) -> None:
        """Go on with a film, or with single pictures: None.

        Where what is kept is found frame by frame, it is looked for in the frames before as well, so that
        others must not come between those of a film: `end` of the one before is called.
        """
        if film is self._film:
            return
        if self._options.sites is not None and (self._options.keep or self._options.keep_objects):
            self._end_film()
        self._film, self._end_film = film, end

    def exposure(self) -> Exposure:
        """Raises InputError for sites before any frame."""
        self.require_open()
        if self._held is None:
            raise InputError(
                "what operators may see depends on the size of frames: segment one first, or open the "
                "session with sizes=[(height, width)]"
            )
        return exposure_of(self.edge, self.geometry.grid)

    def _check_size(self, height: int, width: int) -> None:
        shapes = {self.geometry.resized(*size) for size in self._sizes}
        if self.geometry.resized(height, width) not in shapes:
            known = ", ".join(f"{w} x {h}" for h, w in sorted(self._sizes))
            raise ArgumentError(
                f"a frame has {width} x {height} pixels, and what each operator may see was settled for "
                f"{known}: open a session with all sizes=[(height, width), ...]"
            )
        self._options.kept.check_inside({(height, width)})

    async def _open(self, sizes: frozenset[Size]) -> None:
        self._options.kept.check_inside(sizes)
        held = HeldEdge(self.bundle, self._options, self.films)
        await held.open(sizes)
        self._not_known = held.edge.keeper.of_objects
        self._sizes, self._held = sizes, held
