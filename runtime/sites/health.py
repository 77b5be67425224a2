"""Which sites work: they are probed at the start, taken out of use when they fail, and tried again."""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from runtime.sites.client import SiteClient
from stages.bundle import Probe
from stages.errors import SiteError, SiteUntrusted, printable

RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # waits between attempts; the last one repeats


class Health(enum.Enum):
    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"
    EXCLUDED = "excluded"


@dataclass(eq=False)
class Site:
    """One site as it is now.

    `last_error` is what last went wrong there, None while it works. `answered_s` is when it last answered, by
    time.perf_counter, and `lost_hedges` how many of its tiles a second site had to answer since then.
    """

    client: SiteClient
    health: Health = Health.CONNECTING
    last_error: str | None = None
    answered_s: float = -math.inf
    lost_hedges: int = 0

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def operator(self) -> str:
        return self.client.config.operator

    @property
    def ready(self) -> bool:
        return self.health is Health.READY

    @property
    def expected_s(self) -> float:
        """Seconds that one more tile should take, behind those that are under way."""
        return (self.client.in_flight + 1) * self.client.tile_s

    def answered(self) -> None:
        """Note that the site answers, so that it does not hang."""
        self.answered_s, self.lost_hedges = time.perf_counter(), 0


class Sites:
    """All sites of a run. `async with` connects to them once, `reconnecting` tries those again that fail.

    Everything in `on_change` is called after a site failed or came back, everything in `on_exclusion` after
    one answered wrongly. `on_message` gets sentences for a person; sites word part of them.
    """

    def __init__(
        self,
        clients: Sequence[SiteClient],
        probe: Probe,
        on_message: Callable[[str], None],
        reconnect_s: Sequence[float] = RECONNECT_S,
    ) -> None:
        self.on_change: list[Callable[[], None]] = []
        self.on_exclusion: list[Callable[[], None]] = []
        self._sites = tuple(Site(client) for client in clients)
        self._probe = probe
        self._on_message = on_message
        self._reconnect_s = reconnect_s
        self._connections = contextlib.AsyncExitStack()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Sites:
        """Open all connections and probe all sites once; one that fails is down."""
        async with contextlib.AsyncExitStack() as opened:
            for site in self:
                await opened.enter_async_context(site.client)
            async with anyio.create_task_group() as tasks:
                for site in self:
                    tasks.start_soon(self._connect, site)
            self._connections = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.aclose()

    @contextlib.asynccontextmanager
    async def reconnecting(self) -> AsyncIterator[TaskGroup]:
        """Try sites that are down again while the block runs. Other tasks in the group end with it too."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for site in self:
                self._try_again(site)
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    @property
    def bytes_up(self) -> int:
        """Bytes of message bodies sent to all sites."""
        return sum(site.client.bytes_up for site in self)

    def ready(self) -> list[Site]:
        return [site for site in self if site.ready]

    def working(self) -> set[str]:
        """Operators of which a site works."""
        return {site.operator for site in self.ready()}

    def spares(self) -> set[str]:
        """Operators that have spare sites only."""
        regular = {site.operator for site in self if not site.client.config.spare}
        return {site.operator for site in self} - regular

    def speeds(self) -> dict[str, float]:
        """Tiles per second of each operator; a site that does not work counts as average."""
        known = [site.client.speed for site in self.ready()]
        average = sum(known) / len(known) if known else 1.0
        speeds: dict[str, float] = {}
        for site in self:
            speed = site.client.speed if site.ready else average
            speeds[site.operator] = speeds.get(site.operator, 0.0) + speed
        return speeds

    def failed(self, site: Site, error: SiteError) -> None:
        """Take a site out of use after a failed tile.

        Later failures of a site that is down or excluded are ignored; a wrong answer always excludes.
        """
        was_ready = site.ready
        if was_ready or isinstance(error, SiteUntrusted):
            self._note_failure(site, error)
            self._changed()
        if was_ready:
            self._try_again(site)

    async def _connect(self, site: Site) -> None:
        try:
            await site.client.connect(self._probe)
        except SiteError as exc:
            self._note_failure(site, exc)
        else:
            if site.health is not Health.EXCLUDED:  # a late tile may have excluded it meanwhile
                site.health, site.last_error = Health.READY, None
                site.answered()

    def _try_again(self, site: Site) -> None:
        if site.health is Health.DOWN and self._tasks is not None:
            self._tasks.start_soon(self._reconnect, site)

    async def _reconnect(self, site: Site) -> None:
        waits_s = chain(self._reconnect_s, repeat(self._reconnect_s[-1]))
        while site.health is Health.DOWN:
            await anyio.sleep(next(waits_s))
            await self._connect(site)
        if site.ready:
            self._on_message(printable(f"site {site.name}: is back and has its windows again"))
            self._changed()

    def _note_failure(self, site: Site, error: SiteError) -> None:
        if site.health is Health.EXCLUDED:
            return
        site.health = Health.EXCLUDED if isinstance(error, SiteUntrusted) else Health.DOWN
        if site.health is Health.EXCLUDED:
            for forget in self.on_exclusion:
                forget()
        if site.last_error != str(error):
            site.last_error = str(error)
            self._on_message(printable(error))  # some of it was written by a site

    def _changed(self) -> None:
        for react in self.on_change:
            react()
