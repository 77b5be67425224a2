"""How much a site has to do and how fast it is, and which of several sites should get one more tile.

Seconds a tile are first what the probes showed and then what the tiles show. Sites that would be done about
equally soon take turns, so that over a run each gets its share by speed, however few tiles a frame has.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

from runtime.sites.client import SiteClient

SMOOTHING = 0.05  # how much one answer counts
LONGEST = 4.0  # an answer that took longer than so many times a tile's seconds counts as if it took these
NEAR = 1.5  # sites that take up to so many times as long as the first take turns with it
UNKNOWN_AFTER_S = 10.0  # nobody knows of a site without an answer for so long whether it hangs: it is asked


class Load:
    """The tiles of one site, under way and answered. Seconds are by `clock`.

    `answered_s` is when the site last answered, `connected_s` when it last answered its probes; `given_s` are
    the seconds of all tiles it was given. The seconds a tile takes are `tile_s` of the client, whose
    deadlines follow them.
    """

    def __init__(self, client: SiteClient, clock: Callable[[], float] = time.perf_counter) -> None:
        self.answered_s = -math.inf
        self.connected_s = -math.inf
        self.given_s = 0.0
        self._client = client
        self._clock = clock
        self._assigned = 0
        self._busy_since_s = -math.inf

    @property
    def tiles(self) -> int:
        """Tiles that it has to do: those assigned to it, and those under way that nobody waits for."""
        return max(self._assigned, self._client.in_flight)

    @property
    def work_s(self) -> float:
        """Seconds that these tiles should take."""
        return self.tiles * self._client.tile_s

    @property
    def expected_s(self) -> float:
        """Seconds that one more tile should take, behind the others; 0 to have it tried once."""
        now_s = self._clock()
        if not self.tiles:
            return 0.0 if now_s - self.answered_s > UNKNOWN_AFTER_S else self._client.tile_s
        together = min(self.tiles, self._client.most_windows)
        overdue_s = now_s - self._last_s - together * self._client.tile_s
        return self.work_s + self._client.tile_s + max(0.0, overdue_s)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """The site has one tile more to do while the block runs."""
        if not self.tiles:
            self._busy_since_s = self._clock()
        self._assigned += 1
        self.given_s += self._client.tile_s
        try:
            yield
        finally:
            self._assigned -= 1

    def connected(self) -> None:
        """Note that the site has answered its probes."""
        self.answered_s = self.connected_s = self._clock()

    def answered(self, tiles: int = 1) -> None:
        """Note that the site has answered so many tiles at once."""
        now_s, tile_s = self._clock(), self._client.tile_s
        took_s = min((now_s - self._last_s) / tiles, LONGEST * tile_s)
        self._client.tile_s += (1 - (1 - SMOOTHING) ** tiles) * (took_s - tile_s)
        self.answered_s = now_s

    @property
    def _last_s(self) -> float:
        """Since when it has been at its next answer."""
        return max(self.answered_s, self._busy_since_s)


def next_of(loads: Sequence[Load]) -> Load | None:
    """Which of several sites should get one more tile; None of none."""
    expected_s = [load.expected_s for load in loads]
    soon_s = NEAR * min(expected_s, default=0.0)
    able = [load for load, each_s in zip(loads, expected_s, strict=True) if each_s <= soon_s]
    return min(able, key=lambda load: load.given_s, default=None)
