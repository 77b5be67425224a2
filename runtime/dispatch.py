"""Send the windows of a frame to their sites and collect their embeddings, whatever fails on the way.

Every window has a home operator, chosen before the first tile and kept for the session, so that over a video
an operator sees only its own positions. When no site of the home operator works, its windows go to (1) spare
operators, (2) operators with room under their cap, (3) the edge's own window engine; else the frame is lost.
The ledger decides each time; a site that comes back gets its windows back. A window that is late is asked of
a second site as well, if one exists whose operator has seen that window already: speed is worth no exposure.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from runtime.assignment import assign, takeover
from runtime.canvas import Canvas
from runtime.client import SiteClient, to_embedding
from runtime.hedge import first_answer
from runtime.ledger import ExposureLedger, Grant
from runtime.measure import DispatchStatistics
from runtime.reuse import Reuse
from stages.bundle import Bundle
from stages.engine import EngineThread
from stages.errors import InputError, SiteError, SiteUntrusted, printable
from stages.tensors import Array

RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # waits between attempts; the last one repeats
HEDGE_FACTOR = 3.0  # a tile is late after so many times the time its site should need
_HEDGE_S = 0.2  # and not before, since speeds are measured without the way there


class FrameLost(Exception):
    """A frame that cannot be completed within the caps; the text says why."""


class SendingPaused(Exception):
    """Sending was paused before the frame was complete."""


class SiteState(enum.Enum):
    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"
    EXCLUDED = "excluded"


@dataclass
class _Site:
    client: SiteClient
    state: SiteState = SiteState.CONNECTING
    last_error: str | None = None

    @property
    def operator(self) -> str:
        return self.client.config.operator


_Route: TypeAlias = tuple[_Site, Grant]


class LocalWindows:
    """Runs every window on the edge's own engine: no sites, no exposure."""

    def __init__(self, bundle: Bundle, engines: EngineThread, wire_format: str) -> None:
        self._bundle = bundle
        self._engines = engines
        self._outputs = ["embedding_q8", "scale"] if wire_format == "int8" else ["embedding"]

    async def embed(self, canvas: Canvas, window: int) -> Array:
        """Embedding [w, w, D] of one window, rounded as the wire would."""
        outputs = await self._engines.infer("window", canvas.window_inputs(window), self._outputs)
        row: Array = to_embedding(outputs, self._bundle.embedding_dtype)[0]
        return row


class Dispatcher:
    """Turns canvases into embeddings through the sites. Make one with `connected`."""

    def __init__(
        self,
        bundle: Bundle,
        clients: Sequence[SiteClient],
        ledger: ExposureLedger,
        local: LocalWindows | None,
        say: Callable[[str], None],
        reconnect_s: Sequence[float] = RECONNECT_S,
        reuse: Reuse | None = None,
        hedge_factor: float | None = HEDGE_FACTOR,
    ) -> None:
        # told the site, window, start and end (time.perf_counter) of every answer
        self.watch: Callable[[str, int, float, float], None] = lambda site, window, start_s, end_s: None
        self.statistics = DispatchStatistics()
        self.ledger = ledger
        self._bundle = bundle
        self._probe = bundle.probe()
        self._padding = bundle.padding_embeddings()
        self._sites = [_Site(client) for client in clients]
        self._local = local
        self._say = say
        self._reconnect_s = reconnect_s
        self._home: dict[int, str] = {}
        self._stand_in: dict[int, str] = {}
        self._tasks: TaskGroup | None = None
        self._reuse = reuse
        self._hedge_factor = hedge_factor
        self.paused = False
        self._under_way: set[anyio.CancelScope] = set()

    def pause(self, paused: bool) -> None:
        """Break off every tile that is under way and send no other, until this is called with False."""
        self.paused = paused
        if paused:
            for scope in self._under_way:
                scope.cancel()

    @property
    def bytes_up(self) -> int:
        return sum(site.client.bytes_up for site in self._sites)

    @property
    def last_errors(self) -> dict[str, str | None]:
        """What last went wrong at each site, by its name; None while it works."""
        return {site.client.name: site.last_error for site in self._sites}

    @property
    def sites(self) -> tuple[tuple[SiteClient, SiteState], ...]:
        return tuple((site.client, site.state) for site in self._sites)

    @property
    def home(self) -> Mapping[int, str]:
        """Window -> operator, as assigned for the session."""
        return self._home

    @contextlib.asynccontextmanager
    async def connected(self, windows: Collection[int]) -> AsyncIterator[Dispatcher]:
        """Probe all sites, assign `windows` and keep failed sites under retry while the block runs.

        Raises InputError when no site works, or the caps leave windows over, and there is no window engine
        here to fall back to.
        """
        async with contextlib.AsyncExitStack() as stack:
            for site in self._sites:
                await stack.enter_async_context(site.client)
            async with anyio.create_task_group() as tasks:
                for site in self._sites:
                    tasks.start_soon(self._connect, site)
            self._check_usable()
            await to_thread.run_sync(self._assign, windows)  # up to half a second of searching
            self._check_covered(windows)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            for site in self._sites:
                self._retry(site)
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()

    async def embed(self, canvas: Canvas) -> Array:
        """Embeddings of all windows of a canvas, [windows, w, w, D]; those without picture cost nothing.

        Raises FrameLost when a window can neither be sent within the caps nor run here, and SendingPaused.
        """
        if self.paused:
            raise SendingPaused
        embeddings: Array = self._padding.copy()
        windows = canvas.windows
        self.statistics.canvases += 1
        self.statistics.windows_skipped += canvas.geometry.windows - len(windows)
        failures: list[str] = []

        async def collect(window: int) -> None:
            try:
                embeddings[window] = await self._embed_window(canvas, window)
            except FrameLost as exc:
                failures.append(str(exc))
                tasks.cancel_scope.cancel()

        with self._breakable() as scope:
            async with anyio.create_task_group() as tasks:
                for window in windows:
                    tasks.start_soon(collect, window)
        if failures:
            raise FrameLost(failures[0])
        if scope.cancel_called:
            raise SendingPaused
        return embeddings

    @contextlib.contextmanager
    def _breakable(self) -> Iterator[anyio.CancelScope]:
        """A block that `pause` breaks off."""
        with anyio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                yield scope
            finally:
                self._under_way.discard(scope)

    async def _embed_window(self, canvas: Canvas, window: int) -> Array:
        inputs = canvas.window_inputs(window)
        if self._reuse is None:
            return await self._compute_window(canvas, window, inputs)
        earlier = await self._reuse.earlier(window, inputs)
        if earlier is not None:
            self.statistics.windows_reused += 1
            return earlier
        return await self._reuse.compute(
            window, inputs, partial(self._compute_window, canvas, window, inputs)
        )

    async def _compute_window(self, canvas: Canvas, window: int, inputs: Mapping[str, Array]) -> Array:
        tried: set[str] = set()
        while (route := self._route(window, tried)) is not None:
            self.statistics.redispatched += bool(tried)
            self.statistics.windows_sent += not tried
            tried.add(route[0].client.name)
            embedding = await self._ask_in_time(route, window, inputs, tried)
            if embedding is not None:
                return embedding
        if self._local is None:
            raise FrameLost(self._why_lost(window))
        self.statistics.local_windows += 1
        return await self._local.embed(canvas, window)

    async def _ask_in_time(
        self, route: _Route, window: int, inputs: Mapping[str, Array], tried: set[str]
    ) -> Array | None:
        """The answer of a site, or of a second one when it is late; None when neither gave a good one."""

        async def ask_second() -> Array | None:
            if (second := self._second(window, tried)) is None:
                return None
            self.statistics.hedged += 1
            tried.add(second[0].client.name)
            return await self._ask(second, inputs)

        if self._hedge_factor is None or self._second(window, tried) is None:
            return await self._ask(route, inputs)
        client = route[0].client
        late_s = max(_HEDGE_S, self._hedge_factor * client.tile_s * (client.in_flight + 1))
        return await first_answer(partial(self._ask, route, inputs), ask_second, late_s)

    async def _ask(self, route: _Route, inputs: Mapping[str, Array]) -> Array | None:
        site, grant = route
        started_s = time.perf_counter()
        try:
            embedding = await site.client.infer(grant, inputs)
        except SiteError as exc:
            self._fail(site, exc)
            return None
        self.watch(site.client.name, grant.window, started_s, time.perf_counter())
        return embedding

    def _second(self, window: int, tried: Collection[str]) -> _Route | None:
        """Another site whose operator has seen this window already."""
        able = (s for s in self._sites if s.state is SiteState.READY and s.client.name not in tried)
        holders = [site for site in able if window in self.ledger.exposure(site.operator)]
        return self._fastest(holders, window)

    def _route(self, window: int, tried: Collection[str]) -> _Route | None:
        """The site to send a window to now, with the ledger's grant, or None when no operator may have it."""
        for operator in (self._home.get(window), self._stand_in.get(window)):
            ready = [s for s in self._sites if s.operator == operator and s.state is SiteState.READY]
            ready = [site for site in ready if site.client.name not in tried]
            if route := self._fastest(ready, window):
                return route
        return None

    def _fastest(self, sites: Sequence[_Site], window: int) -> _Route | None:
        """The site that should answer soonest, with the ledger's grant, if it gives one."""
        site = min(sites, key=lambda s: (s.client.in_flight + 1) * s.client.tile_s, default=None)
        grant = self.ledger.grant(site.client.name, window) if site else None
        return (site, grant) if site and grant else None

    async def _connect(self, site: _Site) -> None:
        try:
            await site.client.connect(self._probe)
        except SiteError as exc:
            self._note_failure(site, exc)
        else:
            if site.state is not SiteState.EXCLUDED:  # a late tile may have excluded it meanwhile
                site.state, site.last_error = SiteState.READY, None

    async def _reconnect(self, site: _Site) -> None:
        waits_s = chain(self._reconnect_s, repeat(self._reconnect_s[-1]))
        while site.state is SiteState.DOWN:
            await anyio.sleep(next(waits_s))
            await self._connect(site)
        if site.state is SiteState.READY:
            self._tell(f"site {site.client.name}: is back and has its windows again")
            self._cover_failed()

    def _fail(self, site: _Site, exc: SiteError) -> None:
        """Take a site out of use after a failed tile.

        Failures of other tiles under way are echoes of the first, except a wrong answer, which excludes.
        """
        was_ready = site.state is SiteState.READY
        if was_ready or isinstance(exc, SiteUntrusted):
            self._note_failure(site, exc)
            self._cover_failed()
        if was_ready:
            self._retry(site)

    def _retry(self, site: _Site) -> None:
        if site.state is SiteState.DOWN and self._tasks is not None:
            self._tasks.start_soon(self._reconnect, site)

    def _note_failure(self, site: _Site, exc: SiteError) -> None:
        if site.state is SiteState.EXCLUDED:
            return
        site.state = SiteState.EXCLUDED if isinstance(exc, SiteUntrusted) else SiteState.DOWN
        if site.state is SiteState.EXCLUDED and self._reuse is not None:
            self._reuse.forget()
        if site.last_error != str(exc):
            site.last_error = str(exc)
            self._tell(str(exc))

    def _tell(self, text: str) -> None:
        text = printable(text)  # some of it was written by a site
        self.statistics.messages.append(text)
        self._say(text)

    def _working(self) -> set[str]:
        return {site.operator for site in self._sites if site.state is SiteState.READY}

    def _speeds(self) -> dict[str, float]:
        """Tiles per second of each operator; one that never answered counts as average."""
        known = [site.client.speed for site in self._sites if site.state is SiteState.READY]
        average = sum(known) / len(known) if known else 1.0
        speeds: dict[str, float] = {}
        for site in self._sites:
            speed = site.client.speed if site.state is SiteState.READY else average
            speeds[site.operator] = speeds.get(site.operator, 0.0) + speed
        return speeds

    def _spares(self) -> set[str]:
        """Operators that have spare sites only."""
        return {s.operator for s in self._sites} - {
            s.operator for s in self._sites if not s.client.config.spare
        }

    def _assign(self, windows: Collection[int]) -> None:
        regular = sorted({site.operator for site in self._sites} - self._spares())
        caps = {operator: self.ledger.cap(operator) for operator in regular}
        self._home = assign(
            self._bundle.geometry, sorted(windows), caps, self._speeds(), self.ledger.exposed()
        )
        self._cover_failed()

    def _cover_failed(self) -> None:
        """Choose stand-ins for the windows whose home operator does not work: spares first, then others."""
        working = self._working()
        orphans = [window for window, operator in self._home.items() if operator not in working]
        held = {operator: self._held(operator) for operator in working}
        rooms = {operator: max(0, self.ledger.cap(operator) - len(held[operator])) for operator in working}
        self._stand_in = {}
        for group in (working & self._spares(), working - self._spares()):
            left = [window for window in orphans if window not in self._stand_in]
            self._stand_in |= takeover(
                self._bundle.geometry, left, sorted(group), rooms, held, self._speeds()
            )

    def _held(self, operator: str) -> frozenset[int]:
        """What an operator has seen and what it has yet to see as the home of its windows."""
        own = (window for window, home in self._home.items() if home == operator)
        return self.ledger.exposure(operator).union(own)

    def _check_usable(self) -> None:
        if self._sites and not self._working() and self._local is None:
            raise InputError(
                "no site can be used and this bundle has no window stage to run here: "
                + "; ".join(site.last_error or site.client.name for site in self._sites)
            )

    def _check_covered(self, windows: Collection[int]) -> None:
        left = len(set(windows) - set(self._home))
        if self._sites and left and self._local is None:
            raise InputError(
                f"the caps let all operators together see {len(windows) - left} of {len(windows)} windows, "
                "and this bundle has no window stage to run the others here; raise caps, add sites of other "
                "operators, or copy the window stage to the edge"
            )

    def _why_lost(self, window: int) -> str:
        operator = self._home.get(window)
        owner = f"operator {operator} does not answer" if operator else "no operator has it within its cap"
        return (
            f"window {window}: {owner}, no other operator has room under its cap, and this bundle has no "
            "window stage to run here; add a spare site or copy the window stage to the edge"
        )
