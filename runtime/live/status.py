"""The figures of a running pipeline that page, metrics and protocol share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from runtime.frames.player import Playback


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """One site. `state` is a Health's value; bytes are those of message bodies, and of the heads of HTTP
    before them; `checks` spot checks.

    `failures` counts how often it was taken out for a failed tile, until it has answered many in a row.
    """

    name: str
    operator: str
    state: str
    failures: int
    tiles: int
    in_flight: int
    bytes_up: int
    bytes_down: int
    head_bytes_up: int
    head_bytes_down: int
    checks: int
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class WindowStatus:
    """One window. `sent` False means that it never leaves: it is padding or, with picture, `kept`;
    `operators` have seen it. `kept_now`: it did not leave in the newest frame, for what is in it there."""

    index: int
    sent: bool
    operators: tuple[str, ...]
    kept: bool = False
    kept_now: bool = False


@dataclass(frozen=True, kw_only=True)
class PictureShare:
    """What part of the picture is in the windows that an operator has `seen` in this session, that it
    `may_see`, and that it may see `at_most`, standing in for others as far as its cap goes; 0..1 each."""

    seen: float
    may_see: float
    at_most: float


@dataclass(frozen=True, kw_only=True)
class BoardStatus:
    """The board under the edge. Memory is in MB of 2**20 bytes; what the board does not tell is None.

    `power_mw` is by rail and can be negative; `board_power_mw` is that of the whole board. `throttle_events`
    count by kind since the run began. `warnings` are for a person, loudly.
    """

    gpu_percent: int | None
    memory_used_mb: int
    memory_total_mb: int
    memory_available_mb: int | None
    temperatures_c: dict[str, float]
    power_mw: dict[str, int]
    board_power_mw: int | None
    throttle_events: dict[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Status:
    """A pipeline at one moment.

    `fps`, `latency_ms` (median, 0 when unknown), `steps` (milliseconds a frame) and `limited_by` are of the
    last seconds; counts are since the start. In `doubtful` frames a site that lied had a part. `message` is
    the newest line for a person. `grid` is the side of the window grid; `caps` says how many windows each
    operator may see, `shares` how much of the picture. Nothing of `keep_boxes`, in pixels of the frame (left,
    top, right, bottom), ever leaves. `board` is None where nothing tells of it. `player` says where viewers
    are in a file, and is None for what comes by itself; `undoable` and `redoable` whether `Live.undo` and
    `redo` have something to do.
    """

    fps: float
    latency_ms: float
    frames: int
    dropped: int
    lost: int
    doubtful: int
    limited_by: str
    paused: bool
    message: str | None
    steps: dict[str, float]
    windows_sent: int
    windows_reused: int
    windows_hedged: int
    windows_redispatched: int
    windows_run_at_edge: int
    kept_windows_run: int
    sites: tuple[SiteStatus, ...]
    grid: int
    windows: tuple[WindowStatus, ...]
    caps: dict[str, int]
    shares: dict[str, PictureShare]
    keep_boxes: tuple[tuple[float, float, float, float], ...] = ()
    board: BoardStatus | None = None
    player: Playback | None = None
    undoable: bool = False
    redoable: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the protocol's status message holds it."""
        return asdict(self)
