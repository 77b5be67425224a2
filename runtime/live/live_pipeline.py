"""A running pipeline as viewers see it: Live on top of the pipeline, its objects and its sites."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from anyio import to_thread

from runtime.edge import Edge
from runtime.frames.boxes import BoxXyxy
from runtime.frames.player import Player
from runtime.live.board import Board
from runtime.live.held_tiles import HeldTiles
from runtime.live.interface import Live
from runtime.live.messages import Messages
from runtime.live.newest import Newest
from runtime.live.status import PictureShare, SiteStatus, Status, WindowStatus
from runtime.objects.follower import Follower
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Watch
from runtime.pipeline import Pipeline
from runtime.results.measurements import STEPS, Series
from runtime.results.result import FrameResult, ObjectResult
from stages.errors import InputError
from stages.geometry import Geometry

T = TypeVar("T")


class LivePipeline(Live):
    """Watches and steers one Pipeline. `windows` are those that hold picture, `held` notes what leaves, and
    nothing of `keep_boxes` does. `player` is the source where that is one.

    `fixed_objects` refuses every change of objects, for a run whose masks are verified afterwards.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        follower: Follower,
        edge: Edge,
        geometry: Geometry,
        windows: frozenset[int],
        board: Board,
        messages: Messages,
        held: HeldTiles,
        keep_boxes: tuple[BoxXyxy, ...] = (),
        fixed_objects: bool = False,
        player: Player | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._follower = follower
        self._edge = edge
        self._geometry = geometry
        self._windows = windows
        self._board = board
        self._messages = messages
        self._held = held
        self._keep_boxes = keep_boxes
        self._fixed_objects = fixed_objects
        self._player = player

    @property
    def frames(self) -> Newest[FrameResult]:
        return self._pipeline.frames

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self._follower.objects.entries)

    @property
    def held(self) -> HeldTiles:
        return self._held

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def paused(self) -> bool:
        return self._edge.encoder.paused

    async def prompt(self, request: PromptRequest) -> str:
        self._check_changeable()
        return await self._pipeline.prompt(request)

    async def confirm(self, name: str, number: int) -> None:
        self._check_changeable()
        await self._follower.confirm(name, number)
        self._pipeline.objects_changed()

    def prompts(self) -> Prompts:
        return self._follower.as_asked(self._from_frame)

    def _from_frame(self, prompt: Prompt, place_s: float | None) -> int:
        """Of a prompt, as another run of the same source counts its frames: of a camera 0, and of a file that
        viewers go through the frame at this time."""
        source = self._pipeline.source
        if self._player is not None and place_s is not None:
            return round(place_s / (self._player.playback.step_s or 1.0))
        return prompt.from_frame if source is not None and not source.live else 0

    async def would_find(self, request: PromptRequest) -> ObjectResult | None:
        found = await self._follower.would_find(request)
        if found is None:
            return None
        mask, canvas = found
        pixels = await to_thread.run_sync(canvas.to_frame_mask, mask.logits)
        trust = Watch().judge(mask.iou)
        return ObjectResult("", 0, TrackState.TRACKED, mask.iou, pixels, mask.prompt, trust)

    async def choose(self, name: str, mask: int) -> None:
        self._check_changeable()
        await self._follower.choose(name, mask)
        self._pipeline.objects_changed()

    def undo(self) -> str:
        return self._change(self._follower.undo)

    def redo(self) -> str:
        return self._change(self._follower.redo)

    def remove(self, name: str) -> None:
        self._change(partial(self._follower.remove, name))

    def rename(self, name: str, new: str) -> None:
        self._change(partial(self._follower.rename, name, new))

    def _change(self, change: Callable[[], T]) -> T:
        """Change objects, which frames that stand still show soon."""
        self._check_changeable()
        changed = change()
        self._pipeline.objects_changed()
        return changed

    def holding(self, result: FrameResult) -> contextlib.AbstractContextManager[Newest[FrameResult]]:
        return self._pipeline.holding(result)

    @property
    def player(self) -> Player | None:
        return self._player

    def pause(self, paused: bool) -> None:
        self._pipeline.pause(paused)

    def status(self) -> Status:
        measured, counts = self._pipeline.measured, self._edge.encoder.statistics
        source = self._pipeline.source
        seconds = measured.recent_seconds()
        exposed = self._exposed()
        standing = self._player is not None and self._player.standing
        return Status(
            fps=round(measured.fps(), 2),
            latency_ms=_latency_ms(seconds),
            frames=measured.frames,
            dropped=source.dropped if source else 0,
            lost=measured.lost.count,
            doubtful=self._edge.encoder.doubts.frames,
            limited_by="" if standing else measured.limited_by(self._edge.served_by_sites, recent=True),
            paused=self.paused,
            message=(source.trouble if source else None) or self._messages.newest,
            steps={
                name: round(seconds[name].recent_mean * 1e3, 1)
                for name in STEPS
                if name != "keep" or measured.seconds[name]
            },
            windows_sent=counts.windows_sent,
            windows_reused=counts.windows_reused,
            windows_hedged=counts.hedged,
            windows_redispatched=counts.redispatched,
            windows_run_at_edge=counts.local_windows,
            kept_windows_run=counts.kept_windows,
            sites=self._sites(),
            grid=self._geometry.grid,
            windows=self._window_statuses(exposed),
            caps={operator: self._edge.ledger.cap(operator) for operator in exposed},
            shares=self._shares(exposed),
            keep_boxes=self._keep_boxes,
            board=self._board.status(),
            player=self._player.playback if self._player else None,
            undoable=self._follower.history.undoable,
            redoable=self._follower.history.redoable,
        )

    def _check_changeable(self) -> None:
        if self._fixed_objects:
            raise InputError(
                "objects cannot be changed while --verify is on, which compares what was asked for at the "
                "start; run without it to click"
            )

    def _sites(self) -> tuple[SiteStatus, ...]:
        checks = self._edge.spot_checks.checks if self._edge.spot_checks else Counter[str]()
        return tuple(
            SiteStatus(
                name=site.name,
                operator=site.operator,
                state=site.health.value,
                failures=site.failures,
                tiles=site.client.tiles,
                in_flight=site.client.in_flight,
                bytes_up=site.client.traffic.body_up,
                bytes_down=site.client.traffic.body_down,
                head_bytes_up=site.client.traffic.head_up,
                head_bytes_down=site.client.traffic.head_down,
                checks=checks[site.name],
                last_error=site.last_error,
            )
            for site in self._edge.sites
        )

    def _exposed(self) -> dict[str, frozenset[int]]:
        """The windows that each operator has seen, by its name."""
        operators = sorted({site.operator for site in self._edge.sites})
        return {operator: self._edge.ledger.exposure(operator) for operator in operators}

    def _shares(self, exposed: Mapping[str, frozenset[int]]) -> dict[str, PictureShare]:
        may_see = self._edge.encoder.windows.sites.placement.may_see()
        return {
            operator: PictureShare(
                seen=round(self._edge.areas.share(seen), 4),
                may_see=round(may_see[operator].share, 4),
                at_most=round(may_see[operator].most, 4),
            )
            for operator, seen in exposed.items()
        }

    def _window_statuses(self, exposed: Mapping[str, frozenset[int]]) -> tuple[WindowStatus, ...]:
        kept, newest = self._edge.ledger.kept, self.frames.value
        kept_now = newest.kept if newest else frozenset[int]()
        return tuple(
            WindowStatus(
                index=window,
                sent=window in self._windows and window not in kept,
                operators=tuple(operator for operator, seen in exposed.items() if window in seen),
                kept=window in kept,
                kept_now=window in kept_now,
            )
            for window in range(self._geometry.windows)
        )


def _latency_ms(seconds: Mapping[str, Series]) -> float:
    ends = seconds["end_to_end"]
    return round(ends.percentiles()["p50"] * 1e3, 1) if ends else 0.0
