"""From a canvas to its image embedding: windows to the sites or the edge's own engine, then the global stage.

Windows without picture cost nothing, and those that have not changed are not computed again. What no site may
or can compute runs here; where that is not possible either, the frame is lost. Kept windows run here always.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.frames.canvas import Canvas
from runtime.frames.kept import Keep, Kept, keep_none
from runtime.global_stage import GlobalStage, OnPart, StreamedGlobal, WholeGlobal
from runtime.head import EdgeHead
from runtime.results.doubts import Doubts
from runtime.results.measurements import WindowStatistics
from runtime.sites.answers import to_embedding
from runtime.sites.ledger import ExposureLedger
from runtime.sites.reuse import CachedWindow, Reuse
from runtime.sites.sendable import SendableTile
from runtime.sites.start import LOSE, NO_STAGE
from runtime.sites.traffic import Traffic
from runtime.sites.windows import SiteWindows, WindowEmbedding, open_sites
from stages.bundle import Bundle
from stages.engines.streaming_engine import StreamingEngine
from stages.engines.thread import EngineThread
from stages.hidden import HEAD
from stages.tensors import Array, Pixels


class FrameLost(Exception):
    """A frame that cannot be completed within the caps; the text says why."""


class SendingPaused(Exception):
    """Sending was paused before the frame was complete."""


class LocalWindows:
    """Runs windows on the edge's own engine: no sites, no exposure."""

    def __init__(self, bundle: Bundle, engines: EngineThread, wire_format: str) -> None:
        self._bundle = bundle
        self._engines = engines
        self._outputs = ["embedding_q8", "scale"] if wire_format == "int8" else ["embedding"]

    @property
    def mean_s(self) -> float:
        """Seconds of the engine that a window takes."""
        return self._engines.mean_s("window")

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        """The embedding [w, w, D] of a tile, rounded as the wire would."""
        outputs = await self._engines.infer("window", inputs, self._outputs, order=order)
        row: Array = to_embedding(outputs, self._bundle.embedding_dtype)[0]
        return row


class WindowRunner:
    """Runs the window stage where it may run: at a site, else on the edge's own engine, if there is one and
    `fallback` allows it. Kept windows run on the edge's engine, which is there then."""

    def __init__(self, sites: SiteWindows, local: LocalWindows | None, *, fallback: bool = True) -> None:
        self.sites = sites
        self.local = local
        self._fallback = local if fallback else None
        self._no_fallback = NO_STAGE if local is None else LOSE

    def all_kept(self, windows: frozenset[int]) -> frozenset[int]:
        """These windows of a frame, and those that are kept of every frame."""
        kept = windows | self.sites.ledger.kept
        if kept and self.local is None:
            raise RuntimeError("windows are kept where there is no window engine")
        return kept

    async def grant(self, windows: Sequence[int]) -> None:
        """Have the ledger grant what a frame will show to whom, before any of it leaves.

        Raises FrameLost, and nothing leaves, when a window can run nowhere.
        """
        for window in windows:
            if self._fallback is None and not self.sites.router.has_site(window):
                raise self._lost(window)
        await self.sites.router.grant_together(windows)
        for window in windows:
            if self._fallback is None and self.sites.placement.withheld(window):
                raise self._lost(window)

    async def embed(self, tile: SendableTile, order: int) -> WindowEmbedding:
        """The embedding of a tile. Raises FrameLost."""
        answer = await self.sites.embed(tile)
        if answer is not None:
            return answer
        if self._fallback is None:
            raise self._lost(tile.window)
        self.sites.statistics.local_windows += 1
        return WindowEmbedding(await self._fallback.embed(tile.window, tile.inputs, order))

    async def embed_kept(self, window: int, inputs: Mapping[str, Array], order: int) -> WindowEmbedding:
        """The embedding of a tile that stays here. One window a call of the engine, so that an older frame
        waits for no more than one."""
        if self.local is None:
            raise RuntimeError(f"window {window} is kept where there is no window engine")
        self.sites.statistics.kept_windows += 1
        return WindowEmbedding(await self.local.embed(window, inputs, order))

    def _lost(self, window: int) -> FrameLost:
        reason, remedy = self.sites.placement.why_unavailable(window)
        return FrameLost(f"{reason}, and {self._no_fallback.reason}; {remedy} or {self._no_fallback.remedy}")


class ImageEncoder:
    """Turns canvases into image embeddings, several at once.

    `engines` run "global", and "head" where the bundle has one; `streaming` is the engine of "global" where
    that runs row by row, and `on_part` is told of what it does ahead. `local` is None where this machine has
    no window engine. Without `fallback` that runs nothing but the windows that stay: those that `keep` names
    of a frame, before anything of it leaves, and those that the ledger keeps of all. `doubts` knows which
    sites the windows of a frame came from.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: EngineThread,
        sites: SiteWindows,
        local: LocalWindows | None,
        reuse: Reuse | None = None,
        *,
        keep: Keep = keep_none,
        fallback: bool = True,
        streaming: StreamingEngine | None = None,
        on_part: OnPart | None = None,
    ) -> None:
        self.windows = WindowRunner(sites, local, fallback=fallback)
        self.reuse = reuse or Reuse(None)
        self.doubts = Doubts()
        self.head = EdgeHead(bundle, engines)
        self.bundle = bundle
        self.leaving = anyio.Lock()  # frames are coded, and so sent, in the order in which they are started
        self._engines = engines
        self._sites = sites
        self._keep = keep
        self._streaming = streaming
        self._on_part = on_part
        self._padding = bundle.padding_embeddings()
        self._collecting: set[anyio.CancelScope] = set()
        self._paused = False
        sites.sites.on_exclusion.append(self.reuse.forget)

    @property
    def statistics(self) -> WindowStatistics:
        """Counts of windows since the start."""
        return self._sites.statistics

    @property
    def window_s(self) -> float:
        """Seconds that the edge's own engine has taken for windows so far."""
        return self._engines.total_s("window") + self._engines.total_s(HEAD)

    @property
    def global_s(self) -> float:
        """Seconds that the engine has taken for global stages so far, without what it did ahead."""
        return self._engines.total_s("global")

    @property
    def traffic(self) -> Traffic:
        """What went to all sites and came from them since the start."""
        return self._sites.sites.traffic

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool) -> None:
        """Break off every tile that is under way and send no other, until this is called with False."""
        self._paused = paused
        self._sites.pause(paused)
        if paused:
            for scope in self._collecting:
                scope.cancel()

    def start(self, canvas: Canvas, order: int = 0) -> Encoding:
        """A canvas on its way. `order` is the frame's number: older frames go first on the engine thread."""
        embeddings = self._padding.copy()
        return Encoding(self, canvas, order, embeddings, self._global_stage(canvas, order, embeddings))

    def _global_stage(self, canvas: Canvas, order: int, embeddings: Array) -> GlobalStage:
        if self._streaming is None:
            return WholeGlobal(self._engines, embeddings, order)
        return StreamedGlobal(
            self._engines, self._streaming, embeddings, canvas.windows, order, self._on_part
        )

    async def encode(self, canvas: Canvas, order: int = 0) -> Array:
        """The image embedding of a canvas, fp32 [1, 256, E, E]. Raises FrameLost and SendingPaused."""
        encoding = self.start(canvas, order)
        await encoding.collect()
        return await encoding.finish()

    async def kept(self, canvas: Canvas, number: int) -> Kept:
        """The windows of a frame that stay here."""
        found = await self._keep(canvas, number)
        return Kept(self.windows.all_kept(found.windows), found.seconds)

    async def run_global(self, embeddings: Array, order: int = 0) -> Array:
        """The global stage: embeddings of all windows [windows, w, w, D] -> fp32 [1, 256, E, E]."""
        return await WholeGlobal(self._engines, embeddings, order).finish()

    @contextlib.contextmanager
    def cancelled_by_pause(self) -> Iterator[None]:
        """A block that `pause` cancels; raises SendingPaused then, and at once while paused."""
        if self._paused:
            raise SendingPaused
        with anyio.CancelScope() as scope:
            self._collecting.add(scope)
            try:
                yield
            finally:
                self._collecting.discard(scope)
        if scope.cancel_called:
            raise SendingPaused


@dataclass
class _Tile:
    """A window of a frame; `reused` says that an earlier frame computes it or has done so."""

    window: int
    cached: CachedWindow
    reused: bool


class Encoding:
    """One canvas on its way to its image embedding; made by ImageEncoder.start. `collect`, then `finish`.
    What the global stage holds of it is gone when either has failed or was cancelled.

    `embeddings` [windows, w, w, D] are those of padding, and of picture as they come; `sites` computed some
    of them, and none of the windows that are `kept`, which is known once something may leave. `inputs_s` are
    seconds of `collect` before the first tile went anywhere: cutting, coding, the head.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        canvas: Canvas,
        order: int,
        embeddings: Array,
        global_stage: GlobalStage,
    ) -> None:
        self.embeddings = embeddings
        self.sites: set[str] = set()
        self._encoder = encoder
        self._canvas = canvas
        self._order = order
        self.kept = Kept()
        self.inputs_s = 0.0
        self._collected = False
        self._global = global_stage

    @property
    def ahead_s(self) -> float:
        """Seconds of the engine that the global stage took before `finish`."""
        return self._global.ahead_s

    async def collect(self) -> None:
        """Fetch the embeddings of all windows with picture.

        Raises FrameLost when one can neither be sent within the caps nor run here, and SendingPaused.
        """
        with self._dropping_global(), self._encoder.cancelled_by_pause():
            self.kept = await self._encoder.kept(self._canvas, self._order)
            with self._tiles() as tiles:
                self._count()
                new = [tile.window for tile in tiles if not tile.reused]
                sent = [window for window in new if window not in self.kept.windows]
                async with self._encoder.leaving:
                    await self._encoder.windows.grant(sent)
                    started_s = time.perf_counter()
                    coded = await self._code(new)
                inputs = await self._inputs(new, coded)
                self.inputs_s = time.perf_counter() - started_s
                await self._fetch(tiles, inputs)
        self._encoder.doubts.used(self._order, self.sites)
        self._collected = True

    async def finish(self) -> Array:
        """The global stage: the image embedding, fp32 [1, 256, E, E]."""
        if not self._collected:
            raise RuntimeError("an encoding is finished before its windows were collected")
        with self._dropping_global():
            return await self._global.finish()

    @contextlib.contextmanager
    def _dropping_global(self) -> Iterator[None]:
        """Whatever ends the block early, the frame will not be finished."""
        try:
            yield
        except BaseException:
            self._global.drop()
            raise

    def _count(self) -> None:
        counts, canvas = self._encoder.statistics, self._canvas
        counts.canvases += 1
        counts.windows_skipped += canvas.geometry.windows - len(canvas.windows)

    @contextlib.contextmanager
    def _tiles(self) -> Iterator[list[_Tile]]:
        """The windows with picture. Later frames find them at once, and wait for them at most as long as this
        block lasts."""
        tiles = [self._tile(window) for window in self._canvas.windows]
        try:
            yield tiles
        finally:
            for tile in tiles:
                if not tile.reused:
                    tile.cached.done.set()

    def _tile(self, window: int) -> _Tile:
        found = self._encoder.reuse.find(window, *self._pixels(window))
        return _Tile(window, found or self._start(window), found is not None)

    def _start(self, window: int) -> CachedWindow:
        return self._encoder.reuse.start(window, *self._pixels(window))

    def _pixels(self, window: int) -> tuple[Pixels, npt.NDArray[np.int32]]:
        return self._canvas.tile(window), self._canvas.extents[window]

    async def _code(self, windows: Sequence[int]) -> Mapping[str, Array]:
        """What travels of these windows, coded together, off the event loop; nothing of none."""
        if not windows:
            return {}
        return await to_thread.run_sync(self._canvas.window_inputs, windows, self._encoder.bundle)

    async def _inputs(
        self, windows: Sequence[int], coded: Mapping[str, Array]
    ) -> dict[int, Mapping[str, Array]]:
        """Inputs of the window stage for each of these windows, n = 1, run through the head where there is
        one."""
        if not coded:
            return {}
        together = await self._encoder.head.inputs(coded, self._order)
        return {
            window: {name: array[row : row + 1] for name, array in together.items()}
            for row, window in enumerate(windows)
        }

    async def _fetch(self, tiles: Iterable[_Tile], inputs: Mapping[int, Mapping[str, Array]]) -> None:
        """Compute all tiles at once. The first that is lost ends the others. `inputs` are of those that are
        not reused."""
        lost: list[FrameLost] = []

        async def fetch(tile: _Tile) -> None:
            try:
                answer = await self._embed(tile, inputs)
                self.embeddings[tile.window] = answer.embedding
                self._global.arrived(tile.window)
                if answer.site is not None:
                    self.sites.add(answer.site)
            except FrameLost as exc:
                lost.append(exc)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as ahead:
            ahead.start_soon(self._global.work)
            async with anyio.create_task_group() as tasks:
                for tile in tiles:
                    tasks.start_soon(fetch, tile)
            ahead.cancel_scope.cancel()
        if lost:
            raise lost[0]

    async def _embed(self, tile: _Tile, inputs: Mapping[int, Mapping[str, Array]]) -> WindowEmbedding:
        window = tile.window
        if not tile.reused:
            return await self._compute(window, tile.cached, inputs[window])
        earlier = await tile.cached.result()
        if earlier is None:
            inputs = await self._inputs([window], await self._code([window]))
            return await self._compute(window, self._start(window), inputs[window])
        self._encoder.statistics.windows_reused += 1
        return earlier

    async def _compute(
        self, window: int, cached: CachedWindow, inputs: Mapping[str, Array]
    ) -> WindowEmbedding:
        runner = self._encoder.windows
        if window in self.kept.windows:
            return await cached.compute(partial(runner.embed_kept, window, inputs, self._order))
        tile = SendableTile(inputs, self.kept.windows)
        return await cached.compute(partial(runner.embed, tile, self._order))


@contextlib.asynccontextmanager
async def local_encoder(
    bundle: Bundle, engines: EngineThread, wire_format: str
) -> AsyncIterator[ImageEncoder]:
    """An encoder without sites: `engines` run "global" and, as the bundle has them, "head" and "window"."""
    local = LocalWindows(bundle, engines, wire_format) if "window" in engines else None
    streaming = streaming_of(engines)
    ledger = ExposureLedger.open(None, {}, {})
    async with open_sites(bundle, (), ledger, (), lambda text: None, window_engine=True) as sites:
        yield ImageEncoder(bundle, engines, sites, local, streaming=streaming)


def streaming_of(engines: EngineThread) -> StreamingEngine | None:
    """The engine of the global stage where it runs row by row."""
    engine = engines.engine("global") if "global" in engines else None
    return engine if isinstance(engine, StreamingEngine) else None
