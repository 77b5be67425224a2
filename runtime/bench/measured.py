"""What was measured of one way to run the model, and what bounds it. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.check.site_speed import Way

LOCAL, OFFLOADED = "local", "offloaded"
TITLES: Mapping[str, str] = {LOCAL: "all local", OFFLOADED: "offloaded"}
WINDOWS = "windows"
FRAME = "frame"
# The steps of one frame, one after another, and what a person reads of them.
STAGES: Mapping[str, str] = {
    "canvas": "frame to canvas",
    "inputs": "windows cut and coded",
    WINDOWS: "window stage",
    "global": "global stage",
    "decode": "mask decoder",
    "mask": "mask to frame size",
}
_WHERE: Mapping[str, str] = {
    "canvas": "resizing the frame at the edge",
    "inputs": "cutting and coding windows at the edge",
    WINDOWS: "the window stage at the edge",
    "global": "the global stage at the edge",
    "decode": "the mask decoder at the edge",
    "mask": "bringing the mask to the frame's size at the edge",
}
_MOST_OF_IT = 0.9  # of the window stage's time: windows at the edge take longer than those of every site


@dataclass(frozen=True)
class SiteShare:
    """What one site did of a frame: how many windows, bytes of them up and down, and for each frame the
    seconds from when the first tile left to its last answer. `line` is the way to it, measured alone."""

    name: str
    operator: str
    windows: float
    bytes_up: float
    bytes_down: float
    seconds: Sequence[float]
    line: Way

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds)) if self.seconds else 0.0


@dataclass(frozen=True)
class Overlapped:
    """Frames as a run of a file overlaps them: how many a second, and what bounds that."""

    frames: int
    fps: float
    limited_by: str


@dataclass(frozen=True)
class Measured:
    """One way to run the model. `seconds` hold one value a frame of each of STAGES and of FRAME; of the
    window stage `ahead_s` went into the global stage. `windows` of a frame were computed, `at_edge` of them
    here. Bytes are of a frame, heads of HTTP included. `board` is Board.summary."""

    way: str
    seconds: Mapping[str, Sequence[float]]
    backend: Mapping[str, str]
    overlapped: Overlapped
    windows: float
    at_edge: float
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    sites: Sequence[SiteShare] = ()
    board: Mapping[str, Any] | None = None
    peak_bytes: int | None = None
    ahead_s: Sequence[float] = field(default=(), repr=False)

    @property
    def runs(self) -> int:
        return len(self.seconds[FRAME])

    @property
    def fps(self) -> float:
        """Frames a second, one after another."""
        return 1 / float(np.mean(self.seconds[FRAME]))

    @property
    def slowest(self) -> str:
        """The step that takes most of a frame."""
        return max(STAGES, key=lambda stage: float(np.mean(self.seconds[stage])))

    def line_s(self, site: SiteShare) -> float:
        """How much of a site's time the line to it takes, over which the windows of the others go too, as
        behind one modem."""
        return min(site.median_s, site.line.seconds(self.bytes_up, self.bytes_down))


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: percentiles, mean, extremes and the standard deviation."""
    values = np.asarray(seconds) * 1e3
    p50, p95 = np.percentile(values, [50, 95])
    found = {
        "p50": p50,
        "p95": p95,
        "mean": values.mean(),
        "least": values.min(),
        "most": values.max(),
        "deviation": values.std(),
    }
    return {name: round(float(value), 3) for name, value in found.items()}


def limit(measured: Measured) -> str:
    """What takes most of a frame, one after another: a step here, a site, or the line to it."""
    stage = measured.slowest
    of_frame = f"of the {_ms(float(np.median(measured.seconds[FRAME])))} of a frame"
    taken = float(np.median(measured.seconds[stage]))
    if stage != WINDOWS or not measured.sites:
        return f"{_WHERE[stage]}: {_ms(taken)} {of_frame}"
    slowest = max(measured.sites, key=lambda site: site.median_s)
    if measured.at_edge and slowest.median_s < _MOST_OF_IT * taken:
        return (
            f"the {measured.at_edge:g} windows that no site may have, which run at the edge: {_ms(taken)} "
            f"{of_frame}"
        )
    line_s = measured.line_s(slowest)
    spent = f"{_ms(slowest.median_s)} {of_frame}, {_ms(line_s)} of them on the line"
    if line_s >= slowest.median_s / 2:
        return f"the line to site {slowest.name}: its {slowest.windows:g} windows take {spent}"
    return f"site {slowest.name}: its {slowest.windows:g} windows take {spent}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
