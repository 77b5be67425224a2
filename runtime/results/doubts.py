"""Which frames have windows of which site, and which of those frames are in doubt, since that site lied.

A frame is in doubt when it has a window of a site that was found to lie and comes after the last frame for
which that site is known to have been honest. Frame numbers are kept as ranges, so that the memory does not
grow with the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

_GAP = 16  # frames between two that are one range: they overtake each other, and some need no windows
_MAX_RANGES = 1000  # of a site; beyond them the last one is extended

Ranges: TypeAlias = list[tuple[int, int]]  # first and last frame of each, ascending


@dataclass(frozen=True)
class Doubt:
    """A site that was found to lie: the frames in doubt by then, and the reason, one sentence."""

    site: str
    frames: Ranges
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "doubtful_frames": [list(frames) for frames in self.frames],
            "site": self.site,
            "reason": self.reason,
        }


@dataclass
class _SiteFrames:
    """Frames that have windows of one site, those after `honest_until` alone; `reason` once it lied."""

    ranges: Ranges = field(default_factory=list)
    honest_until: int = -1
    reason: str | None = None


class Doubts:
    """Told of each frame which sites its windows came from, and of each site whether it was honest."""

    def __init__(self) -> None:
        self.newest = -1  # the highest number of a frame so far
        self._sites: dict[str, _SiteFrames] = {}
        self._untold: list[Doubt] = []

    def used(self, frame: int, sites: Collection[str]) -> None:
        """A frame has windows, or masks made with windows, of these sites."""
        self.newest = max(self.newest, frame)
        for name in sites:
            site = self._of(name)
            if frame > site.honest_until:
                _add(site.ranges, frame)

    def honest(self, name: str, until: int) -> None:
        """The site did not lie for the frames up to this one, as far as is known."""
        site = self._of(name)
        site.honest_until = until
        site.ranges = [(max(first, until + 1), last) for first, last in site.ranges if last > until]

    def lied(self, name: str, reason: str) -> Doubt:
        """The site lied: from now on its frames are in doubt, those of before and those still to come."""
        site = self._of(name)
        site.reason = reason
        doubt = Doubt(name, list(site.ranges), reason)
        self._untold.append(doubt)
        return doubt

    def has(self, frame: int, sites: Iterable[str]) -> bool:
        """Whether a frame is in doubt that has windows of these sites."""
        return any(site.reason is not None and frame > site.honest_until for site in map(self._of, sites))

    def take_untold(self) -> list[Doubt]:
        """The doubts since the last call."""
        untold, self._untold = self._untold, []
        return untold

    @property
    def all(self) -> list[Doubt]:
        """The doubts so far, with the frames that came since."""
        return [
            Doubt(name, list(site.ranges), site.reason)
            for name, site in self._sites.items()
            if site.reason is not None
        ]

    @property
    def frames(self) -> int:
        """How many frames are in doubt."""
        covered, end = 0, -1
        for first, last in sorted(chain.from_iterable(doubt.frames for doubt in self.all)):
            covered += max(0, last - max(first, end + 1) + 1)
            end = max(end, last)
        return covered

    def _of(self, name: str) -> _SiteFrames:
        return self._sites.setdefault(name, _SiteFrames())


def _add(ranges: Ranges, frame: int) -> None:
    """Add a frame to the last range if it is near or there are too many, else as a new one."""
    if ranges:
        first, last = ranges[-1]
        if frame <= last + _GAP or len(ranges) >= _MAX_RANGES:
            ranges[-1] = (min(first, frame), max(last, frame))
            return
    ranges.append((frame, frame))


def in_words(ranges: Ranges) -> str:
    """ "frames 12 to 40 and others"; "no frame" of none."""
    if not ranges:
        return "no frame"
    first, last = ranges[0]
    more = " and others" if len(ranges) > 1 else ""
    return (f"frames {first} to {last}" if last > first else f"frame {first}") + more
