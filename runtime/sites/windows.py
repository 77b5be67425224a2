"""Windows to sites and embeddings back, whatever fails on the way.

A window that is late is sent to a second site as well. Where that one answers first, the late request goes on
until its deadline, one a site at most. If the site answers this or any other tile by then, it is slow and
stays in use; if it answers none, it hangs and is taken out of use. Where one tile of a site gets no answer in
time, its other ones go elsewhere at once. A site that failed tiles before is tried with a copy of one; nobody
waits for its answer. Windows that leave together share a request (runtime.sites.sharing), those sent again do
not.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from runtime.results.measurements import WindowStatistics
from runtime.sites.areas import Areas
from runtime.sites.client import SITE_LOG_HINT, SiteClient, SiteTimeout
from runtime.sites.health import RECONNECT_S, Site, Sites
from runtime.sites.hedging import Request, first_answer
from runtime.sites.ledger import ExposureLedger
from runtime.sites.placement import Placement
from runtime.sites.routing import Route, Router
from runtime.sites.sendable import SendableTile
from runtime.sites.sharing import SharedRequests
from runtime.sites.start import NO_STAGE, PATIENCE, NoFallback, Patience, begin
from stages.bundle import Bundle
from stages.errors import SiteError, SiteUnavailable, ungrouped
from stages.tensors import Array

HEDGE_FACTOR = 3.0  # a tile is late after so many times the time its site should need
MIN_HEDGE_DELAY_S = 0.2  # and not before, since speeds are measured without the way there

# Told the site, window, start and end (time.perf_counter) of every answer.
OnAnswer: TypeAlias = Callable[[str, int, float, float], None]
# Told the site, window, inputs and embedding of every good answer.
OnEmbedding: TypeAlias = Callable[[Site, int, Mapping[str, Array], Array], None]


@dataclass(frozen=True)
class WindowEmbedding:
    """The embedding [w, w, D] of a window, and the site that computed it; None is the edge itself."""

    embedding: Array
    site: str | None = None


class SiteWindows:
    """Has windows computed by the sites; made by `open_sites`. Requests run in `tasks`.

    `window_engine` says that the edge runs what no site may or can run.
    """

    def __init__(
        self,
        sites: Sites,
        placement: Placement,
        ledger: ExposureLedger,
        tasks: TaskGroup,
        statistics: WindowStatistics,
        hedge_factor: float | None = HEDGE_FACTOR,
        on_answer: OnAnswer | None = None,
        *,
        window_engine: bool = True,
    ) -> None:
        self.sites = sites
        self.placement = placement
        self.ledger = ledger
        self.statistics = statistics
        self.router = Router(sites, placement, ledger, last_resort=not window_engine)
        self.on_embedding: OnEmbedding | None = None
        self._tasks = tasks
        self._requests = SharedRequests(tasks)
        self._hedge_factor = hedge_factor
        self._on_answer = on_answer
        self._under_way: defaultdict[Site, set[CancelScope]] = defaultdict(set)
        # Requests that go on though nobody waits for their answer.
        self._unwanted: dict[Site, Request[WindowEmbedding]] = {}

    async def embed(self, tile: SendableTile) -> WindowEmbedding | None:
        """The embedding of a tile; None when no site may have it, or all that may have failed."""
        for trial in self.router.trials(tile.window):
            self._try_out(trial, tile)
        tried: set[str] = set()
        while (route := await self.router.route(tile.window, tried)) is not None:
            self.statistics.redispatched += bool(tried)
            self.statistics.windows_sent += not tried
            tried.add(route.site.name)
            with route.site.load.holding():
                answer = await self._infer_hedged(route, tile, tried)
            if answer is not None:
                return answer
        return None

    def pause(self, paused: bool) -> None:
        """Let nothing leave, and cancel the requests whose answers nobody waits for, until this is called
        with False. Those who wait for an answer are to be cancelled by whoever calls this."""
        self._requests.paused = paused
        if paused:
            for request in self._unwanted.values():
                request.cancel()

    async def _infer_hedged(
        self, route: Route, tile: SendableTile, tried: set[str]
    ) -> WindowEmbedding | None:
        """The answer of a site, or of a second one when it is late; None when neither gave a good one."""

        async def infer_second() -> WindowEmbedding | None:
            if (second := self.router.second(route.window, tried)) is None:
                return None
            self.statistics.hedged += 1
            tried.add(second.site.name)
            with second.site.load.holding():
                return await self._infer(second, tile)

        alone = len(tried) > 1
        if self._hedge_factor is None:
            return await self._infer(route, tile, alone=alone)
        work_s = route.site.load.work_s
        first: Request[WindowEmbedding] = Request()
        self._tasks.start_soon(first.run, partial(self._infer, route, tile, first, alone=alone))
        try:
            if not alone and route.site.client.most_windows > 1:
                await checkpoint()  # by now the site has all that may share this request, and its work
                work_s = route.site.load.work_s
            late_s = max(MIN_HEDGE_DELAY_S, self._hedge_factor * work_s)
            answer = await first_answer(first.answer, infer_second, late_s)
        except BaseException:
            first.cancel()
            raise
        if not first.ended:
            self._give_up(route.site, first)
        return answer

    def _give_up(self, site: Site, request: Request[WindowEmbedding]) -> None:
        """A second site answered first: keep this request running if it is the only such one of its site."""
        site.lost_hedges += 1
        request.given_up = True
        if self._has_unwanted(site):
            request.cancel()
        else:
            self._unwanted[site] = request

    def _try_out(self, route: Route, tile: SendableTile) -> None:
        """Send a copy of a tile to a site on trial, one at a time."""
        if not self._has_unwanted(route.site):
            trial: Request[WindowEmbedding] = Request()
            self._unwanted[route.site] = trial
            self._tasks.start_soon(trial.run, partial(self._infer, route, tile))

    def _has_unwanted(self, site: Site) -> bool:
        return (request := self._unwanted.get(site)) is not None and not request.ended

    async def _infer(
        self,
        route: Route,
        tile: SendableTile,
        request: Request[WindowEmbedding] | None = None,
        *,
        alone: bool = True,
    ) -> WindowEmbedding | None:
        site = route.site
        started_s = time.perf_counter()
        try:
            embedding = await self._ask(route, tile, alone)
        except SiteTimeout as exc:
            self._timed_out(site, exc, started_s, given_up=request is not None and request.given_up)
            return None
        except SiteError as exc:
            self.sites.failed(site, exc)
            return None
        if embedding is None:
            return None
        self.sites.answered(site)
        if self._on_answer is not None:
            self._on_answer(site.name, route.window, started_s, site.load.answered_s)
        if self.on_embedding is not None:
            self.on_embedding(site, route.window, tile.inputs, embedding)
        return WindowEmbedding(embedding, site.name)

    async def _ask(self, route: Route, tile: SendableTile, alone: bool) -> Array | None:
        """The site's embedding; None when another of its tiles got no answer in time meanwhile."""
        scopes, scope = self._under_way[route.site], CancelScope()
        scopes.add(scope)
        try:
            with scope:
                return await self._requests.infer(route, tile, alone=alone)
        finally:
            scopes.discard(scope)
        return None

    def _timed_out(self, site: Site, error: SiteTimeout, started_s: float, *, given_up: bool) -> None:
        """Take a site out of use, and its tiles under way from it.

        Unless it is only slow, for it answered something since, or has come back since.
        """
        alive_s = site.load.answered_s if given_up else site.load.connected_s
        if alive_s < started_s:
            self.sites.failed(site, _hangs(site, error.timeout_s) if given_up else error)
            for scope in tuple(self._under_way[site]):
                scope.cancel()


def _hangs(site: Site, timeout_s: float) -> SiteUnavailable:
    return SiteUnavailable(
        site.name,
        f"hangs: a second site had to answer its last {site.lost_hedges} tiles, and it gave no answer within "
        f"{timeout_s:.1f} s; {SITE_LOG_HINT}",
    )


@contextlib.asynccontextmanager
async def open_sites(
    bundle: Bundle,
    clients: Sequence[SiteClient],
    ledger: ExposureLedger,
    windows: Collection[int],
    on_message: Callable[[str], None],
    *,
    window_engine: bool,
    reconnect_s: Sequence[float] = RECONNECT_S,
    hedge_factor: float | None = HEDGE_FACTOR,
    on_answer: OnAnswer | None = None,
    patience: Patience = PATIENCE,
    no_fallback: NoFallback = NO_STAGE,
    areas: Areas | None = None,
) -> AsyncIterator[SiteWindows]:
    """Connect to the sites, assign `windows` by their `areas` and keep failed sites under retry while the
    block runs.

    Raises InputError when no site works, or the caps leave windows over, and there is no `window_engine` here
    to fall back to, for the reason of `no_fallback`. `hedge_factor` None never sends to a second site.
    """
    statistics = WindowStatistics()
    async with Sites(clients, bundle.probe(), on_message, reconnect_s) as sites:
        with ungrouped():
            async with sites.connecting() as tasks:
                placement = await begin(
                    bundle.geometry,
                    sites,
                    ledger,
                    windows,
                    patience,
                    window_engine=window_engine,
                    no_fallback=no_fallback,
                    areas=areas,
                )
                yield SiteWindows(
                    sites,
                    placement,
                    ledger,
                    tasks,
                    statistics,
                    hedge_factor,
                    on_answer,
                    window_engine=window_engine,
                )
