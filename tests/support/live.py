"""A pipeline for tests of the preview: frames on demand, a disc for every click, three sites that pretend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import anyio
import numpy as np
import numpy.typing as npt

from runtime.frames.canvas import make_canvas
from runtime.frames.player import Playback, Player
from runtime.frames.sources import Frame
from runtime.live.held_tiles import Held, HeldTiles
from runtime.live.interface import Live
from runtime.live.newest import Newest
from runtime.live.status import BoardStatus, PictureShare, SiteStatus, Status, WindowStatus
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Trust
from runtime.results.result import FrameResult, ObjectResult
from runtime.sites.areas import Areas
from runtime.sites.ledger import ExposureLedger
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import RGB, TileCode
from tests.support.pictures import photo

SITES = (("a", "alpha"), ("b", "beta"), ("c", "gamma"))
CAP = 6
GRID, ROWS = 5, 3  # 16:9: ten of 25 windows are padding
STEPS = {"read": 6.0, "windows": 41.0, "global": 55.0, "track": 8.0, "decode": 16.0, "write": 9.0}
RADIUS_PX = 40
KEPT = 200  # frames that can be looked up
PICTURE = photo("1000x667")  # read before an event loop runs


BOARD = BoardStatus(
    gpu_percent=62,
    memory_used_mb=3650,
    memory_total_mb=7620,
    memory_available_mb=3790,
    temperatures_c={"cpu": 53.9, "gpu": 53.3},
    power_mw={"VDD_IN": 12479, "VDD_SOC": 2817},
    board_power_mw=12479,
    throttle_events={"average over-current": 0},
    warnings=(),
)


SURE = Trust(0.9)


@dataclass
class FakeObject:
    colour: int
    centre: tuple[float, float]
    box: tuple[float, float, float, float] | None
    state: TrackState = TrackState.TRACKED
    trust: Trust = SURE
    asked: PromptRequest | None = None


@dataclass
class FakeSite:
    name: str
    operator: str
    state: str = "ready"
    failures: int = 0
    tiles: int = 0
    last_error: str | None = None
    seen: set[int] = field(default_factory=set)


class CountedHeld(HeldTiles):
    """Counts the pictures that were made of it."""

    pictures = 0

    def picture(self, held: Held, height: int, width: int) -> Pixels | None:
        self.pictures += 1
        return super().picture(held, height, width)


class FakeLive(Live):
    """Every `advance` is a frame of a slow pan, with the objects asked for so far.

    Tiles leave as mini would send them in this `code`, None for something that is no pixels; `left` are the
    newest, by operator and window.
    """

    def __init__(
        self,
        picture: npt.NDArray[np.uint8] | None = None,
        width: int = 640,
        code: TileCode | None = RGB,
        player: Player | None = None,
    ) -> None:
        self._picture = PICTURE if picture is None else picture
        self._size = (width, width * 9 // 16)
        self._frames: Newest[FrameResult] = Newest()
        self._paused = False
        self._player = player
        self.playback: Playback | None = None  # that the status shows
        self.tries: list[PromptRequest] = []
        self.tryable = True
        self.chosen: list[tuple[str, int]] = []
        self.undone: list[str] = []
        self.held_frames: list[Newest[FrameResult]] = []
        self._made = 0
        self.objects: dict[str, FakeObject] = {}
        self.sites = [FakeSite(name, operator) for name, operator in SITES]
        self.requests: list[PromptRequest] = []
        self.confirmed: list[tuple[str, int]] = []
        self.asked: Newest[PromptRequest] = Newest()
        self.made: dict[int, FrameResult] = {}  # the newest frames by number
        self.message: str | None = None
        self.doubtful = 0
        self.kept: set[int] = set()  # windows, for ever
        self.kept_now: set[int] = set()  # windows of the frames from now on
        self.keep_boxes: tuple[tuple[float, float, float, float], ...] = ()
        self.left: dict[tuple[str, int], Array] = {}
        self._code = code
        self._ledger = ExposureLedger.open(None, dict(SITES), {operator: CAP for _, operator in SITES})
        self._held = CountedHeld(GEOMETRIES["mini"], code)
        self.board: BoardStatus | None = None
        self.gate: anyio.Event | None = None  # prompts wait for it
        self.number = -1
        self.sent = 0  # tiles to all sites
        self.advance()

    @property
    def frames(self) -> Newest[FrameResult]:
        return self._frames

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(self.objects)

    @property
    def held(self) -> CountedHeld:
        return self._held

    @property
    def geometry(self) -> Geometry:
        return GEOMETRIES["mini"]

    @property
    def paused(self) -> bool:
        return self._paused

    async def prompt(self, request: PromptRequest) -> str:
        self.requests.append(request)
        self.asked.put(request)
        if self.gate is not None:
            await self.gate.wait()
        if request.name is not None and request.name not in self.objects:
            raise InputError(f"there is no object {request.name}")
        if request.new_name in self.objects:
            raise InputError(f"another object is named {request.new_name}; give each its own name")
        name = request.name or request.new_name or self._new_name()
        points = [point for point in request.points if point[2]] or [(0.0, 0.0, 1)]
        x0, y0, x1, y1 = request.box_xyxy or (0.0, 0.0, 0.0, 0.0)
        centre = ((x0 + x1) / 2, (y0 + y1) / 2) if request.box_xyxy else points[-1][:2]
        old = self.objects.get(name)
        colour = old.colour if old else (self._made - 1) % 7
        self.objects[name] = FakeObject(colour, centre, request.box_xyxy, asked=request)
        return name

    async def confirm(self, name: str, number: int) -> None:
        if name not in self.objects:
            raise InputError(f"there is no object {name}")
        self.confirmed.append((name, number))
        self.objects[name].trust = Trust(self.objects[name].trust.confidence)

    def prompts(self) -> Prompts:
        return Prompts(
            tuple(
                Prompt(name, each.asked.box_xyxy, each.asked.points, each.asked.number)
                for name, each in self.objects.items()
                if each.asked is not None
            )
        )

    async def prompt_at(self, x: float, y: float) -> str:
        """A click on the newest frame."""
        return await self.prompt(PromptRequest(self.number, points=((x, y, 1),)))

    async def would_find(self, request: PromptRequest) -> ObjectResult | None:
        self.tries.append(request)
        if not self.tryable:
            return None
        centre = request.points[0][:2] if request.points else (0.0, 0.0)
        mask = self._mask(FakeObject(0, centre, request.box_xyxy))
        return ObjectResult("", 0, TrackState.TRACKED, 0.9, mask)

    async def choose(self, name: str, mask: int) -> None:
        self.chosen.append((name, mask))

    def undo(self) -> str:
        return self._again("undo")

    def redo(self) -> str:
        return self._again("redo")

    def _again(self, what: str) -> str:
        if not self.objects:
            raise InputError(f"there is nothing to {what}")
        self.undone.append(what)
        return next(iter(self.objects))

    @contextmanager
    def holding(self, result: FrameResult) -> Iterator[Newest[FrameResult]]:
        held: Newest[FrameResult] = Newest()
        held.put(result)
        self.held_frames.append(held)
        try:
            yield held
        finally:
            self.held_frames.remove(held)

    @property
    def player(self) -> Player | None:
        return self._player

    def remove(self, name: str) -> None:
        if name not in self.objects:
            raise InputError(f"there is no object {name}")
        del self.objects[name]

    def rename(self, name: str, new: str) -> None:
        if name not in self.objects or new in self.objects:
            raise InputError(f"object {name} cannot be named {new}")
        self.objects = {new if key == name else key: found for key, found in self.objects.items()}

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def status(self) -> Status:
        return Status(
            fps=17.2,
            latency_ms=132.0,
            frames=self.number + 1,
            dropped=4,
            lost=0,
            doubtful=self.doubtful,
            limited_by="the global stage at the edge: 55 ms of every frame",
            paused=self._paused,
            message=self.message,
            steps=STEPS,
            windows_sent=self.sent,
            windows_reused=0,
            windows_hedged=0,
            windows_redispatched=0,
            windows_run_at_edge=0,
            kept_windows_run=0,
            sites=tuple(self._site(site) for site in self.sites),
            grid=GRID,
            windows=tuple(self._window(index) for index in range(GRID * GRID)),
            caps={site.operator: CAP for site in self.sites},
            shares={site.operator: self._share(site) for site in self.sites},
            keep_boxes=self.keep_boxes,
            board=self.board,
            player=self._player.playback if self._player else self.playback,
            undoable=bool(self.objects),
            redoable=bool(self.undone),
        )

    def advance(self) -> None:
        """The next frame; unless paused, its windows have been to the sites."""
        self.number += 1
        height, width = self._size[1], self._size[0]
        left = self.number * 2 % max(1, self._picture.shape[1] - width)
        pixels = self._picture[60 : 60 + height, left : left + width]
        kept = frozenset[int]()
        if not self._paused and self.objects and self.sites:
            kept = frozenset(self.kept | self.kept_now)
            self._dispatch(pixels, kept)
        found = () if self._paused else tuple(self._found(name) for name in self.objects)
        frame = Frame(self.number, str(self.number), self.number / 15, pixels)
        result = FrameResult(frame, found, self.doubtful > 0, kept, 0.132)
        self.made[self.number] = result
        self.made.pop(self.number - KEPT, None)
        self._frames.put(result)

    async def run(self, every_s: float = 0.03) -> None:
        """Frames without an end."""
        while True:
            self.advance()
            await anyio.sleep(every_s)

    def lose(self, name: str, error: str, state: str = "down", failures: int = 1) -> None:
        """A site goes down, or answers its probe but not its tiles."""
        self.sites = [
            replace(site, state=state, failures=failures, last_error=error) if site.name == name else site
            for site in self.sites
        ]
        self.message = f"site {name} is down: {error}"

    def _new_name(self) -> str:
        self._made += 1
        return f"object {self._made}"

    def _dispatch(self, pixels: npt.NDArray[np.uint8], kept: frozenset[int]) -> None:
        canvas = make_canvas(pixels, self.geometry)
        for window in sorted(set(range(GRID * ROWS)) - kept):
            site = self.sites[window * 2 % len(self.sites)]
            if site.state != "ready":
                continue
            site.tiles += 1
            site.seen.add(window)
            self.sent += 1
            extent = canvas.extents[[window]]
            inputs: dict[str, Array] = {"extent": extent, "index": np.array([[window]], np.int32)}
            if self._code is not None:
                inputs["tile"] = self._code.encode(canvas.pixels, extent, [window], self.geometry)
                self.left[site.operator, window] = inputs["tile"]
            grant = self._ledger.grant(site.name, window)
            assert grant is not None
            self._held.sent([grant], inputs)

    def _found(self, name: str) -> ObjectResult:
        found = self.objects[name]
        if found.state is TrackState.LOST:
            return ObjectResult(name, found.colour, found.state, 0.0, None)
        mask = self._mask(found)
        return ObjectResult(name, found.colour, found.state, 0.93, mask, trust=found.trust)

    def _mask(self, found: FakeObject) -> npt.NDArray[np.bool_]:
        ys, xs = np.ogrid[: self._size[1], : self._size[0]]
        x, y = found.centre
        rx, ry = RADIUS_PX, RADIUS_PX
        if found.box is not None:
            rx, ry = (round((found.box[2] - found.box[0]) / 2), round((found.box[3] - found.box[1]) / 2))
        inside = ((xs - x) / max(1, rx)) ** 2 + ((ys - y) / max(1, ry)) ** 2 <= 1
        return np.asarray(inside, bool)

    def _site(self, site: FakeSite) -> SiteStatus:
        return SiteStatus(
            name=site.name,
            operator=site.operator,
            state=site.state,
            failures=site.failures,
            tiles=site.tiles,
            in_flight=2 if site.state == "ready" and not self._paused else 0,
            bytes_up=site.tiles * 150_528,
            bytes_down=site.tiles * 9_600,
            head_bytes_up=site.tiles * 350,
            head_bytes_down=site.tiles * 250,
            checks=0,
            last_error=site.last_error,
        )

    def _share(self, site: FakeSite) -> PictureShare:
        areas = Areas.of(self.geometry, [self._size[::-1]])
        seen = areas.share(site.seen)
        return PictureShare(seen=round(seen, 4), may_see=0.3333, at_most=0.4)

    def _window(self, index: int) -> WindowStatus:
        seen = {site.operator for site in self.sites if index in site.seen}
        kept = index in self.kept
        sent = index < GRID * ROWS and not kept
        newest = self._frames.value
        kept_now = newest is not None and index in newest.kept
        return WindowStatus(
            index=index, sent=sent, operators=tuple(sorted(seen)), kept=kept, kept_now=kept_now
        )
