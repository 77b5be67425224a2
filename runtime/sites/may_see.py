"""What each operator may see of the picture, for a person who starts a run or looks ahead.

Shares are those of window positions: when the camera moves, content moves through them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runtime.sites.areas import Areas


@dataclass(frozen=True)
class MaySee:
    """Of one operator: its `windows` of a frame, with those it has seen, and what `share` of the picture is
    in them, 0..1. `most` is that share once it stands in for others as far as its cap goes."""

    windows: int
    share: float
    most: float


def may_see(areas: Areas, held: Mapping[str, Collection[int]], rooms: Mapping[str, int]) -> dict[str, MaySee]:
    """By operator; `held` are the windows it has or has seen, `rooms` how many more it may see."""
    return {
        name: MaySee(
            len(areas.windows.intersection(windows)),
            areas.share(windows),
            areas.most(windows, rooms[name]),
        )
        for name, windows in sorted(held.items())
    }


def sentence(found: Mapping[str, MaySee], windows: int) -> str:
    """One line for a person; `windows` are those of a frame that hold picture."""
    shares = [f"{name} {_percent(each)}" for name, each in found.items()]
    begins = f"operators may see of the picture: {', '.join(shares)}"
    counts = [each.windows for each in found.values()]
    if len(set(counts)) == 1:
        return f"{begins}; {counts[0]} of {windows} windows each"
    return f"{begins}; {', '.join(map(str, counts))} of {windows} windows"


def _percent(each: MaySee) -> str:
    share, most = (f"{100 * part:.0f} %" for part in (each.share, each.most))
    return share if most == share else f"{share} ({most} if others fail)"
