"""Which operator has which window for the session, and who takes over from one whose sites all fail.

Every window has a home operator, chosen before the first tile and kept, so that over a video an operator sees
only its own positions. When no site of the home operator works, its windows go to (1) spare operators, (2)
operators with room under their cap; what is left has nobody. A site that comes back gets its windows back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anyio import to_thread

from runtime.sites.areas import Areas
from runtime.sites.assignment import assign, least_cap, takeover
from runtime.sites.health import Sites
from runtime.sites.ledger import ExposureLedger
from runtime.sites.may_see import MaySee, may_see
from stages.geometry import Geometry


class Placement:
    """Windows and their operators; made by `place`. `home` is window -> operator.

    `choose_substitutes` is to be called whenever a site fails, joins or comes back.
    """

    def __init__(
        self,
        geometry: Geometry,
        sites: Sites,
        ledger: ExposureLedger,
        home: Mapping[int, str],
        areas: Areas | None = None,
    ) -> None:
        self.home = home
        self._areas = areas or Areas.of(geometry, ())
        self._geometry = geometry
        self._sites = sites
        self._ledger = ledger
        self._substitutes: dict[int, str] = {}
        self.choose_substitutes()

    def may_see(self) -> dict[str, MaySee]:
        """What each operator may see, by its name; what it has seen in this session counts."""
        held = {site.operator: self._held(site.operator) for site in self._sites}
        return may_see(self._areas, held, {operator: self._room(operator) for operator in held})

    def operators(self, window: int) -> list[str]:
        """Who may be asked for a window now, in this order; each as far as its cap goes."""
        return [table[window] for table in (self.home, self._substitutes) if window in table]

    def served(self, window: int) -> bool:
        """Whether an operator of which a site works may have this window."""
        return not self._sites.working().isdisjoint(self.operators(window))

    def withheld(self, window: int) -> bool:
        """Whether the ledger, which cannot be written now, is all that keeps a window from an operator."""
        able = self._sites.working().intersection(self.operators(window))
        granted = any(window in self._ledger.granted(operator) for operator in able)
        return self._ledger.why_stopped is not None and bool(able) and not granted

    def why_unavailable(self, window: int) -> tuple[str, str]:
        """Why a window cannot be sent to any operator, and what would help."""
        if self.withheld(window):
            return f"window {window}: {self._ledger.why_stopped}", "make it writable"
        operator = self.home.get(window)
        owner = f"operator {operator} does not answer" if operator else "no operator has it within its cap"
        reason = f"window {window}: {owner}, no other operator has room under its cap"
        held = [self._held(operator) for operator in self._sites.working()]
        if not held:
            return reason, "add a spare site"
        cap = least_cap({*self.home, window}, held)
        return reason, f"add a spare site, raise the caps to {cap} each"

    def choose_substitutes(self) -> None:
        """For the windows whose home operator does not work: spares first, then others."""
        working, spares = self._sites.working(), self._sites.spares()
        unserved = [window for window, operator in self.home.items() if operator not in working]
        held = {operator: self._held(operator) for operator in working}
        rooms = {operator: self._room(operator) for operator in working}
        grid = range(self._geometry.windows)  # a ledger that was changed under this run may say anything
        held = {operator: seen.intersection(grid) for operator, seen in held.items()}
        self._substitutes = {}
        for group in (working & spares, working - spares):
            left = [window for window in unserved if window not in self._substitutes]
            self._substitutes |= takeover(
                self._geometry, left, sorted(group), rooms, held, self._sites.speeds(), self._areas
            )

    def _held(self, operator: str) -> frozenset[int]:
        """What an operator has seen and what it has yet to see as the home of its windows."""
        own = (window for window, home in self.home.items() if home == operator)
        return self._ledger.exposure(operator).union(own)

    def _room(self, operator: str) -> int:
        """How many windows an operator may see besides those."""
        return max(0, self._ledger.cap(operator) - len(self._held(operator)))


async def place(
    geometry: Geometry,
    sites: Sites,
    ledger: ExposureLedger,
    windows: Collection[int],
    areas: Areas | None = None,
) -> Placement:
    """Assign `windows` to the operators that are no spares, by the speed of their sites."""
    regular = sorted({site.operator for site in sites} - sites.spares())
    caps = {operator: ledger.cap(operator) for operator in regular}
    home = await to_thread.run_sync(  # up to half a second of searching
        assign, geometry, sorted(windows), caps, sites.speeds(), ledger.exposed(), areas
    )
    return Placement(geometry, sites, ledger, home, areas)
