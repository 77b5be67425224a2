"""A running loop as the preview sees it: Live on top of the pipeline, its objects and its sites."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from runtime.dispatch import Dispatcher
from runtime.follow import Follower
from runtime.live import Live, Newest, Request, Shown
from runtime.loop import Loop
from runtime.measure import STEPS, limited_by
from stages.geometry import Geometry


class LiveLoop(Live):
    """Watches and steers one Loop. `windows` are those that hold picture."""

    def __init__(
        self,
        loop: Loop,
        follower: Follower,
        dispatcher: Dispatcher,
        geometry: Geometry,
        windows: frozenset[int],
    ) -> None:
        self._loop = loop
        self._follower = follower
        self._dispatcher = dispatcher
        self._geometry = geometry
        self._windows = windows

    @property
    def frames(self) -> Newest[Shown]:
        return self._loop.frames

    @property
    def paused(self) -> bool:
        return self._dispatcher.paused

    async def prompt(self, request: Request) -> str:
        return await self._follower.ask(request)

    def remove(self, name: str) -> None:
        self._follower.remove(name)

    def rename(self, name: str, new: str) -> None:
        self._follower.objects.rename(name, new)

    def pause(self, paused: bool) -> None:
        self._dispatcher.pause(paused)

    def status(self) -> Mapping[str, Any]:
        measured, counts = self._loop.measured, self._dispatcher.statistics
        source = self._loop.source
        seconds = measured.lately()
        ends = seconds["end_to_end"]
        through_sites = bool(self._dispatcher.sites)
        return {
            "fps": round(measured.fps(), 2),
            "latency_ms": round(ends.percentiles()["p50"] * 1e3, 1) if ends else 0.0,
            "frames": measured.frames,
            "dropped": source.dropped if source else 0,
            "lost": measured.lost.count,
            "limited_by": limited_by(seconds, through_sites, measured.in_flight, measured.in_turn),
            "paused": self.paused,
            "message": (source.trouble if source else None) or _last(counts.messages),
            "steps": {name: round(seconds[name].recent_mean * 1e3, 1) for name in STEPS},
            "windows_sent": counts.windows_sent,
            "windows_reused": counts.windows_reused,
            "windows_hedged": counts.hedged,
            "windows_redispatched": counts.redispatched,
            "windows_run_at_edge": counts.local_windows,
            "sites": self._sites(),
            **self._exposure(),
        }

    def _sites(self) -> list[dict[str, Any]]:
        errors = self._dispatcher.last_errors
        return [
            {
                "name": client.name,
                "operator": client.config.operator,
                "state": state.value,
                "tiles": client.tiles,
                "in_flight": client.in_flight,
                "bytes_up": client.bytes_up,
                "bytes_down": client.bytes_down,
                "last_error": errors[client.name],
            }
            for client, state in self._dispatcher.sites
        ]

    def _exposure(self) -> dict[str, Any]:
        """Which operator saw which window, and may see how many."""
        ledger = self._dispatcher.ledger
        operators = sorted({client.config.operator for client, _ in self._dispatcher.sites})
        exposed = {operator: ledger.exposure(operator) for operator in operators}
        return {
            "grid": self._geometry.grid,
            "windows": [
                {
                    "index": window,
                    "sent": window in self._windows,
                    "operators": [operator for operator in operators if window in exposed[operator]],
                }
                for window in range(self._geometry.windows)
            ],
            "caps": {operator: ledger.cap(operator) for operator in operators},
        }


def _last(messages: deque[str]) -> str | None:
    return messages[-1] if messages else None
