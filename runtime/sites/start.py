"""When a run begins: as soon as every window has a place, and not before the sites had a moment to answer.

Speeds are measured before the first tile, so all sites are waited for while they answer in good time. One
that is late is waited for only where its windows have no place without it: caps leave no room, and there is
no window engine here. Else it joins when it answers, and is taken to be of average speed until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import anyio

from runtime.sites.areas import Areas
from runtime.sites.assignment import least_cap
from runtime.sites.health import Sites
from runtime.sites.ledger import ExposureLedger
from runtime.sites.placement import Placement, place
from stages.errors import InputError
from stages.geometry import Geometry


@dataclass(frozen=True)
class Patience:
    """How long a run waits for sites that have not answered yet: `first_s` for one that works, which holds
    where the edge has a window engine, and from then on `grace_s` for the others."""

    first_s: float = 8.0
    grace_s: float = 2.0


PATIENCE = Patience()


@dataclass(frozen=True)
class NoFallback:
    """Why the edge does not compute what no site may have, and what would change that."""

    reason: str
    remedy: str


NO_STAGE = NoFallback("this bundle has no window stage to run here", "copy the window stage to the edge")
LOSE = NoFallback("--when-sites-fail is lose", "give --when-sites-fail local")
FIRST = "has not answered yet; the run waits for a first site"
WAITS = (
    "has not answered yet; the run waits for it, since others have no room for its windows under their caps "
    "and {reason}"
)
BEGINS = "has not answered yet; the run begins without it, and it gets its windows when it answers"


async def begin(
    geometry: Geometry,
    sites: Sites,
    ledger: ExposureLedger,
    windows: Collection[int],
    patience: Patience,
    *,
    window_engine: bool,
    no_fallback: NoFallback = NO_STAGE,
    areas: Areas | None = None,
) -> Placement:
    """Wait for the sites, assign `windows` to them by their `areas` and keep that up to date.

    Raises InputError when no site works, or the caps leave windows over, and there is no `window_engine`;
    `no_fallback` says why there is none.
    """
    needed = len(sites) > 0 and not window_engine
    await _wait(sites, patience.grace_s, sites.ready)
    if not sites.ready():
        sites.tell_unheard(FIRST)
        await _wait(sites, math.inf if needed else patience.first_s - patience.grace_s, sites.ready)
    if sites.ready():
        await _wait(sites, patience.grace_s, lambda: False)
    if needed:
        _check_usable(sites, no_fallback)
    placement = await place(geometry, sites, ledger, windows, areas)
    if needed:
        _check_covered(placement, windows, sites, ledger, no_fallback)
    while needed and sites.unheard() and not all(map(placement.served, windows)):
        sites.tell_unheard(WAITS.format(reason=no_fallback.reason))
        await sites.changed()
        placement = await place(geometry, sites, ledger, windows, areas)
    sites.tell_unheard(BEGINS)
    sites.on_change.append(placement.choose_substitutes)
    return placement


async def _wait(sites: Sites, for_s: float, enough: Callable[[], object]) -> None:
    """Wait for sites that have neither answered nor failed, until there is `enough` or the time is over."""
    with anyio.move_on_after(for_s):
        while sites.unheard() and not enough():
            await sites.changed()


def _check_usable(sites: Sites, no_fallback: NoFallback) -> None:
    if not sites.working():
        raise InputError(
            f"no site can be used and {no_fallback.reason}: "
            + "; ".join(site.last_error or site.name for site in sites)
        )


def _check_covered(
    placement: Placement,
    windows: Collection[int],
    sites: Sites,
    ledger: ExposureLedger,
    no_fallback: NoFallback,
) -> None:
    left = len(set(windows) - set(placement.home))
    if left:
        operators = {site.operator for site in sites} - sites.spares()
        cap = least_cap(windows, [ledger.exposure(operator) for operator in operators])
        more = -(-left // max(ledger.cap(operator) for operator in operators))
        raise InputError(
            f"the caps let all operators together see {len(windows) - left} of {len(windows)} windows, "
            f"and {no_fallback.reason}; raise the caps to {cap} each, add sites of {more} more "
            f"{'operator' if more == 1 else 'operators'}, or {no_fallback.remedy}"
        )
