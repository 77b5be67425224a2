"""What operators have seen of a session's frames, and what they may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.edge import Edge


@dataclass(frozen=True)
class OperatorExposure:
    """Of one operator, whose `sites` are named. Shares are of the picture, 0 to 1: the largest over the sizes
    of frames that the session is for.

    `seen` are the positions of windows that it has been sent, since the ledger's session began and by runs
    and sessions before this one too; `cap` is how many it may be sent at most. `seen_share` lies in those,
    `may_see_share` in what it will be sent while all sites work, and `at_most_share` once it stands in for
    others as far as its cap goes.
    """

    sites: tuple[str, ...]
    seen: frozenset[int]
    cap: int
    seen_share: float
    may_see_share: float
    at_most_share: float


@dataclass(frozen=True)
class Exposure:
    """`operators` by name, none without sites. `since` is when the ledger's session began: ISO 8601, UTC.

    Windows are numbered row by row, `grid` a side; `windows` are those that hold picture and may be sent,
    `kept` those that are sent to nobody in this session.
    """

    since: str
    grid: int
    windows: frozenset[int]
    kept: frozenset[int]
    operators: Mapping[str, OperatorExposure]


def exposure_of(edge: Edge, grid: int) -> Exposure:
    """What an open edge has shown to whom."""
    may_see = edge.encoder.windows.sites.placement.may_see()
    operators = {}
    for name in sorted({site.operator for site in edge.sites}):
        seen = edge.ledger.exposure(name)
        operators[name] = OperatorExposure(
            sites=tuple(site.name for site in edge.sites if site.operator == name),
            seen=seen,
            cap=edge.ledger.cap(name),
            seen_share=edge.areas.share(seen),
            may_see_share=may_see[name].share,
            at_most_share=may_see[name].most,
        )
    return Exposure(edge.ledger.session, grid, edge.areas.windows, edge.ledger.kept, operators)
