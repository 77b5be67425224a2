"""What of each frame never leaves, decided before anything of it can.

Boxes that a person gives stay for the whole run. What detectors find stays with a margin, and a while longer
where it was found: they miss a face in some frames, in most of which it is still there. Detectors look at the
canvas, which is what could leave, on a thread of their own, one frame after another; meanwhile the windows of
the frames before travel. Objects that are followed stay where their masks are.

A frame whose detector fails, or takes longer than LOOK_S, is lost: nothing is sent unchecked. A detector that
is not back from one frame after HANGS_S ends the run.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from anyio import CancelScope, to_thread

from runtime.detectors.kinds import KINDS, make_find
from runtime.detectors.network import DetectorOptions, Find
from runtime.detectors.thread import LookThread, Overdue
from runtime.encoder import FrameLost
from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import Canvas
from runtime.frames.kept import Kept, KeptBoxes, touched
from runtime.sites.ledger import ExposureLedger
from stages.errors import EngineError

# Around a box, on each side: this share of its shorter side, and at least this share of a window's.
MARGIN = 0.3
LEAST_MARGIN = 1 / 16
# Frames in which a box stays that was found before.
REMEMBERED = 8
# How long one detector may look at one frame, and after how long it is not waited for any more.
LOOK_S, HANGS_S = 5.0, 60.0

# The windows that objects touch on the canvas of this frame number: called at once, what it gives elsewhere.
OfObjects: TypeAlias = Callable[[Canvas, int], Callable[[], frozenset[int]]]


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """What is kept; see the help of `pedsam run`. `kinds` are those of `runtime.detectors.kinds`, run as
    `detectors` says; `films` says that frames follow each other in time."""

    boxes: KeptBoxes = field(default_factory=KeptBoxes)
    kinds: tuple[str, ...] = ()
    detectors: DetectorOptions = field(default_factory=DetectorOptions)
    objects: bool = False
    for_session: bool = False
    films: bool = True
    look_s: float = LOOK_S
    hangs_s: float = HANGS_S

    @property
    def by_frame(self) -> bool:
        """Whether what is kept differs from frame to frame."""
        return bool(self.kinds) or self.objects


class Keeper:
    """Names the windows of each frame that stay; made by `keeping`. `found` counts boxes by kind.

    `of_objects` is to be set where objects are kept; until then all windows are.
    """

    def __init__(
        self,
        options: KeepOptions,
        ledger: ExposureLedger,
        finds: Mapping[str, Find],
        thread: LookThread,
    ) -> None:
        self.found: Counter[str] = Counter()
        self.of_objects: OfObjects = _all_windows
        self._options = options
        self._ledger = ledger
        self._finds = finds
        self._thread = thread
        self._remembered: deque[_Found] = deque(maxlen=REMEMBERED + 1 if options.films else 1)

    @property
    def looks_for(self) -> str:
        """A sentence about what is looked for and how; empty where nothing is."""
        if not self._finds:
            return ""
        detectors = self._options.detectors
        shipped = " and ".join(kind for kind in self._finds if kind in KINDS)
        parts = [f"looking for {shipped} at {detectors.px} pixels on {detectors.device or 'the CPU'}"] * bool(
            shipped
        )
        parts += [f"asking {kind}" for kind in self._finds if kind not in KINDS]
        return f"{' and '.join(parts)} before a frame is sent; what is missed is sent"

    async def __call__(self, canvas: Canvas, number: int) -> Kept:
        """The windows of a frame that stay. Raises FrameLost where that cannot be known, and EngineError
        where a detector hangs for good."""
        self._ledger.keep(self._options.boxes.of(canvas))
        if not self._options.by_frame:
            return Kept()
        looks: list[Callable[[], frozenset[int]]] = []
        if self._finds:
            looks.append(partial(self._look, canvas))
        if self._options.objects:
            looks.append(partial(self._at_objects, self.of_objects(canvas, number)))
        try:
            kept = await self._thread.look(partial(_all_of, looks))
        except Overdue as exc:
            raise self._too_late(exc) from exc
        if self._options.for_session:
            self._ledger.keep(kept.windows)
        return kept

    def _too_late(self, overdue: Overdue) -> FrameLost | EngineError:
        look_s, hangs_s = self._options.look_s, self._options.hangs_s
        if overdue.seconds < hangs_s:
            since = f"has looked at one frame for more than {look_s:g} s"
            return FrameLost(f"{overdue.name} {since}, so that nothing of this one was sent")
        since = f"it has looked at one frame for more than {hangs_s:g} s"
        return EngineError(f"{overdue.name} hangs: {since}; nothing is sent unchecked, so the run ends")

    def _at_objects(self, look: Callable[[], frozenset[int]]) -> frozenset[int]:
        self._thread.began("--keep-objects")
        return look()

    def _look(self, canvas: Canvas) -> frozenset[int]:
        """The windows that show what the detectors find, or found a moment ago. On the detectors' thread."""
        picture = canvas.pixels[: canvas.rows, : canvas.cols]
        boxes: list[BoxXyxy] = []
        for kind, find in self._finds.items():
            self._thread.began(f"--keep {kind}")
            try:
                of_kind = list(find(picture))
            except BaseException as exc:  # a user's own may raise anything; no signal comes to this thread
                raise FrameLost(
                    f"--keep {kind} failed ({type(exc).__name__}: {exc}), so that nothing of it was sent"
                ) from exc
            self.found[kind] += len(of_kind)
            boxes += of_kind
        self._remembered.append(_Found(canvas.rows, canvas.cols, boxes))
        return touched(canvas.geometry, (box for found in self._remembered for box in found.on(canvas)))


@dataclass(frozen=True)
class _Found:
    """Boxes, in pixels of a canvas with this much picture."""

    rows: int
    cols: int
    boxes: Sequence[BoxXyxy]

    def on(self, canvas: Canvas) -> list[BoxXyxy]:
        """The boxes with their margin, on a canvas that may be of another shape."""
        across, down = canvas.cols / self.cols, canvas.rows / self.rows
        return [
            grown((left * across, top * down, right * across, bottom * down), canvas)
            for left, top, right, bottom in self.boxes
        ]


def grown(box: BoxXyxy, canvas: Canvas) -> BoxXyxy:
    """A box of a canvas with its margin, inside the picture."""
    left, top, right, bottom = box
    margin = max(MARGIN * min(right - left, bottom - top), LEAST_MARGIN * canvas.geometry.tile_px)
    return (
        max(0.0, left - margin),
        max(0.0, top - margin),
        min(float(canvas.cols), right + margin),
        min(float(canvas.rows), bottom + margin),
    )


def _all_of(looks: Sequence[Callable[[], frozenset[int]]]) -> Kept:
    started_s = time.perf_counter()
    windows: frozenset[int] = frozenset().union(*(look() for look in looks))
    return Kept(windows, time.perf_counter() - started_s)


def _all_windows(canvas: Canvas, number: int) -> Callable[[], frozenset[int]]:
    windows = frozenset(canvas.windows)
    return lambda: windows


def _open(options: KeepOptions) -> Mapping[str, Find]:
    return {kind: make_find(kind, options.detectors) for kind in options.kinds}


@contextlib.asynccontextmanager
async def keeping(options: KeepOptions, ledger: ExposureLedger) -> AsyncIterator[Keeper]:
    """A Keeper and its thread, while the block runs. Raises InputError for a detector that is not there,
    EngineError for one that cannot be loaded."""
    thread = LookThread(options.look_s)
    try:
        yield Keeper(options, ledger, await thread.open(partial(_open, options)), thread)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(thread.close)
