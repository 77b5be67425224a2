"""Which sites work: they are probed, taken out of use when they fail, and tried again.

A site that fails tiles is not trusted for its probe alone: where the probe passes all the time, a copy of a
tile tries it first. The waits between attempts grow with every tile it fails, until it has answered many.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from runtime.sites.client import SiteClient
from runtime.sites.load import Load, next_of
from runtime.sites.traffic import Traffic
from stages.bundle import Probe
from stages.errors import SiteError, SiteUntrusted, printable

RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # waits between attempts; the last one repeats
FORGIVEN_AFTER = 50  # tiles answered in a row, after which the failed ones are forgotten
UNTIL_THE_END = "it is not asked again in this run"
FAILS_TILES = (
    "answers its probe but fails its tiles; others have its windows, and a copy of a tile tries it now and "
    "then until it answers one; see the site's log"
)


class Health(enum.Enum):
    """FAILING is a site that answers its probe but not its tiles."""

    CONNECTING = "connecting"
    READY = "ready"
    FAILING = "failing"
    DOWN = "down"
    EXCLUDED = "excluded"


@dataclass(eq=False)
class Site:
    """One site as it is now.

    `last_error` is what last went wrong there, None while it works. `failures` counts how often it was taken
    out for a failed tile, until FORGIVEN_AFTER good ones in a row. `suspect` says that its probe has not
    failed since, and `on_trial` that a copy of a tile may try whether it works. `late` is what was told of it
    while it did not answer at the start, and `worked` that it was in use before. `lost_hedges` is how many of
    its tiles a second site had to answer since it last answered one.
    """

    client: SiteClient
    health: Health = Health.CONNECTING
    last_error: str | None = None
    failures: int = 0
    suspect: bool = False
    on_trial: bool = False
    late: str | None = None
    worked: bool = False
    lost_hedges: int = 0
    load: Load = field(init=False)
    _good: int = 0  # tiles since the last one that failed
    _told_failing: bool = False

    def __post_init__(self) -> None:
        self.load = Load(self.client)

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def operator(self) -> str:
        return self.client.config.operator

    @property
    def ready(self) -> bool:
        return self.health is Health.READY

    def answered(self) -> None:
        """Note a good tile."""
        self.lost_hedges = 0
        self._good += 1
        if self._good >= FORGIVEN_AFTER:
            self.failures = 0

    def failed(self) -> None:
        """Note that the site is taken out for a tile."""
        self.failures, self._good = self.failures + 1, 0
        self.suspect, self.on_trial = True, False
        self.health = Health.DOWN if self.ready else Health.FAILING

    def works(self) -> None:
        """Note that the site is to be used."""
        self.health, self.last_error, self.worked = Health.READY, None, True
        self.suspect = self.on_trial = self._told_failing = False
        self.late = None
        self.lost_hedges = 0

    def tell_failing_once(self) -> bool:
        """Whether it is to be told that it fails; once until it works."""
        told, self._told_failing = self._told_failing, True
        return not told


def fastest(sites: Sequence[Site]) -> Site | None:
    """The site that should get one more tile; None of none."""
    load = next_of([site.load for site in sites])
    return next((site for site in sites if site.load is load), None)


class Sites:
    """All sites of a run. `async with` opens their connections, `connecting` connects to them and tries those
    again that fail.

    Everything in `on_change` is called after a site failed, joined or came back, everything in `on_exclusion`
    after one answered wrongly. `on_message` gets sentences for a person; sites word part of them.
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
        self._news = anyio.Event()

    async def __aenter__(self) -> Sites:
        async with contextlib.AsyncExitStack() as opened:
            for site in self:
                await opened.enter_async_context(site.client)
            self._connections = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.aclose()

    @contextlib.asynccontextmanager
    async def connecting(self) -> AsyncIterator[TaskGroup]:
        """Connect to all sites, side by side, and again to those that fail, while the block runs.

        Other tasks in the group end with it too.
        """
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for site in self:
                tasks.start_soon(self._connect, site, chain([0.0], self._waits_s(1)))
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()

    async def changed(self) -> None:
        """Wait until a site fails, joins or comes back."""
        await self._news.wait()

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    @property
    def traffic(self) -> Traffic:
        """What went to all sites and came from them."""
        return sum((site.client.traffic for site in self), Traffic())

    def ready(self) -> list[Site]:
        return [site for site in self if site.ready]

    def unheard(self) -> list[Site]:
        """Sites that have neither answered nor failed yet."""
        return [site for site in self if site.health is Health.CONNECTING]

    def on_trial(self) -> list[Site]:
        return [site for site in self if site.on_trial]

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

    def tell(self, site: Site, text: str) -> None:
        """Tell a person about a site."""
        self._on_message(printable(f"site {site.name}: {text}"))

    def tell_unheard(self, text: str) -> None:
        """Tell this of every site that has neither answered nor failed yet, once."""
        for site in self.unheard():
            if site.late != text:
                site.late = text
                self.tell(site, text)

    def answered(self, site: Site) -> None:
        """Note a good tile of a site: one on trial is used again."""
        site.answered()
        if site.on_trial:
            self._use(site)

    def failed(self, site: Site, error: SiteError) -> None:
        """Take a site out of use after a failed tile.

        Later failures of a site that is out of use are ignored; a wrong answer always excludes.
        """
        if isinstance(error, SiteUntrusted):
            self._note_failure(site, error)
        elif site.ready or site.on_trial:
            site.failed()
            self._tell_failure(site, error)
            if self._tasks is not None:
                self._tasks.start_soon(self._connect, site, self._waits_s(site.failures))
            self._changed()

    async def _connect(self, site: Site, waits_s: Iterable[float]) -> None:
        """Connect to a site until that works, after each wait once."""
        for wait_s in waits_s:
            await anyio.sleep(wait_s)
            if site.health is not Health.EXCLUDED:  # a late tile may have excluded it meanwhile
                await self._try_to_connect(site)
            if site.ready or site.on_trial or site.health is Health.EXCLUDED:
                return

    async def _try_to_connect(self, site: Site) -> None:
        try:
            await site.client.connect(self._probe)
        except SiteError as exc:
            self._note_failure(site, exc)
            return
        site.load.connected()
        if site.health is Health.EXCLUDED:
            return
        if site.suspect:
            site.health, site.on_trial = Health.FAILING, True
            self._changed()
        else:
            self._use(site)

    def _waits_s(self, attempt: int) -> Iterator[float]:
        """Seconds before the attempts to connect, from this one on; the first is 1."""
        return chain(self._reconnect_s[attempt - 1 :], repeat(self._reconnect_s[-1]))

    def _use(self, site: Site) -> None:
        if site.last_error is not None and site.worked:
            self.tell(site, "is back and has its windows again")
        elif site.last_error is not None or site.late is not None:
            self.tell(site, "has joined and has its windows")
        site.works()
        site.load.given_s = max(each.load.given_s for each in self if each.operator == site.operator)
        self._changed()

    def _note_failure(self, site: Site, error: SiteError) -> None:
        """Note that a site does not connect, or that it answered wrongly."""
        if site.health is Health.EXCLUDED:
            return
        site.suspect = site.on_trial = False
        site.health = Health.EXCLUDED if isinstance(error, SiteUntrusted) else Health.DOWN
        if site.health is Health.EXCLUDED:
            for forget in self.on_exclusion:
                forget()
        self._tell_failure(site, error)
        self._changed()

    def _tell_failure(self, site: Site, error: SiteError) -> None:
        known, site.last_error = site.last_error, str(error)
        if site.health is Health.FAILING:
            if site.tell_failing_once():
                self.tell(site, FAILS_TILES)
        elif site.last_error != known:
            end = f"; {UNTIL_THE_END}" if site.health is Health.EXCLUDED else ""
            self._on_message(printable(f"{error}{end}"))  # some of it was written by a site

    def _changed(self) -> None:
        for react in self.on_change:
            react()
        self._news.set()
        self._news = anyio.Event()
