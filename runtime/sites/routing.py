"""Which site gets a window now, with the ledger's grant.

A window goes to a site of its home operator, or of the one that stands in for it; the sites of one operator
share its windows by their speed. A second copy, for a window that is late or to try a site that failed, goes
only to an operator that has seen that window already: neither is worth an exposure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from anyio import to_thread

from runtime.sites.health import Site, Sites, fastest
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.placement import Placement


@dataclass(frozen=True)
class Route:
    """A site, and the permission to send it one window."""

    site: Site
    grant: Grant

    @property
    def window(self) -> int:
        return self.grant.window


class Router:
    """Picks sites for windows. New exposures are written off the event loop.

    `last_resort` says that a frame is lost whose window has no site: then one on trial gets it.
    """

    def __init__(
        self, sites: Sites, placement: Placement, ledger: ExposureLedger, *, last_resort: bool = False
    ) -> None:
        self._sites = sites
        self._placement = placement
        self._ledger = ledger
        self._last_resort = last_resort

    def has_site(self, window: int) -> bool:
        """Whether a window can be sent now, if the ledger grants it."""
        return self._choose(window) is not None

    async def grant_together(self, windows: Collection[int]) -> None:
        """Have the ledger grant the windows of a frame to those that will get them, in one write.

        `route` then finds them granted, those of them that the ledger grants.
        """
        chosen = [(site, window) for window in windows if (site := self._choose(window))]
        new = [
            (site.name, window)
            for site, window in chosen
            if window not in self._ledger.granted(site.operator)
        ]
        if new:
            await to_thread.run_sync(self._ledger.grant_all, new)

    async def route(self, window: int, tried: Collection[str] = ()) -> Route | None:
        """Where to send a window now, not to a site in `tried`; None when no operator may have it."""
        refused: set[str] = set()
        while site := self._choose(window, tried, refused):
            grant = await self._grant(site, window)
            if grant is None:
                refused.add(site.operator)
            elif site.ready or site.on_trial:  # still, after a write of the ledger
                return Route(site, grant)
        return None

    def second(self, window: int, tried: Collection[str]) -> Route | None:
        """Another site whose operator has seen this window already."""
        able = [site for site in self._sites.ready() if site.name not in tried]
        site = fastest([site for site in able if window in self._ledger.exposure(site.operator)])
        grant = self._ledger.grant_again(site.name, window) if site else None
        return Route(site, grant) if site and grant else None

    def trials(self, window: int) -> list[Route]:
        """Sites on trial that a copy of this window can try: their operators have seen it already."""
        if not (on_trial := self._sites.on_trial()):
            return []
        chosen = self._choose(window)
        granted = [(site, self._ledger.grant_again(site.name, window)) for site in on_trial]
        return [Route(site, grant) for site, grant in granted if grant and site is not chosen]

    def _choose(self, window: int, tried: Collection[str] = (), refused: Collection[str] = ()) -> Site | None:
        """A site of the first operator that has one and was not `refused` a grant."""
        groups = [self._sites.ready(), *([self._sites.on_trial()] if self._last_resort else [])]
        for group in groups:
            able = [site for site in group if site.name not in tried]
            for operator in self._placement.operators(window):
                if operator not in refused:
                    site = fastest([site for site in able if site.operator == operator])
                    if site is not None:
                        return site
        return None

    async def _grant(self, site: Site, window: int) -> Grant | None:
        again = self._ledger.grant_again(site.name, window)
        return again or await to_thread.run_sync(self._ledger.grant, site.name, window)
