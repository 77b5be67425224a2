"""Spot checks: now and then the edge computes a window again that a site has answered, and compares.

A site does not know which windows are checked: each that it has answered since its last check is as likely as
any other, and it is chosen after the answer. `runtime.sites.trust` says when a difference is a lie. What a
site's engine may differ by is measured when it connects, with synthetic tiles that show nothing; a site may
notice those, which gains it nothing: good answers leave the limit low, bad ones exclude it.

Checks cost the edge a share of its engine's time at most. They wait for the frames under way, and hold up a
later one by one window at most. One answer a site is kept, so nothing piles up.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

import anyio
import cv2
import numpy as np
from anyio.abc import TaskGroup

from runtime.results.doubts import Doubts, in_words
from runtime.sites.health import Health, Site, Sites
from runtime.sites.trust import Tolerance, Trust, Verdict, tolerance
from runtime.sites.windows import SiteWindows
from stages.bundle import Bundle, Probe
from stages.errors import EngineError, SiteUnavailable, SiteUntrusted, ungrouped
from stages.probe import difference, relative_rms
from stages.tensors import Array
from stages.tile_inputs import tile_on_canvas, window_inputs

LATER_FRAMES = 4  # a check waits for so many, about those under way, and goes before later ones
LEARNING_S = 30.0  # for all probes of a site; who takes longer is measured by what any engine may differ
BEGIN_S = 2.0  # a run waits so long for the probes of the sites it begins with
_NOISE = 4.0  # grey levels, of a sensor
_WHY = "it lies, or its engine computes something else: leave it out, or start it with another --backend"

T = TypeVar("T")
# Makes inputs of the window stage from tiles, calls of a lower order first.
Prepare: TypeAlias = Callable[[Mapping[str, Array], int], Awaitable[Mapping[str, Array]]]


class Recompute(Protocol):
    """The edge's own window engine; see runtime.encoder.LocalWindows."""

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array: ...

    @property
    def mean_s(self) -> float: ...


@dataclass(frozen=True)
class SpotCheckOptions:
    """At most `rate` windows a second, and `share` of the engine's time, 0 to 1."""

    rate: float = 1.0
    share: float = 0.05

    def interval_s(self, window_s: float) -> float:
        """From one check to the next, where a window takes the engine so long."""
        return max(1 / self.rate, window_s / self.share)


class Samples(Generic[T]):
    """One answer of each site, any of those since its last check with the same probability."""

    def __init__(self, randrange: Callable[[int], int] = secrets.randbelow) -> None:
        self._randrange = randrange
        self._answers: Counter[str] = Counter()  # since the last check
        self._kept: dict[str, T] = {}
        self._turns: list[str] = []  # sites, the one that waits longest first

    def add(self, site: str, answer: T) -> None:
        """An answer of a site; most are dropped."""
        if site not in self._turns:
            self._turns.append(site)
        self._answers[site] += 1
        if self._randrange(self._answers[site]) == 0:
            self._kept[site] = answer

    def take(self, among: Collection[str]) -> tuple[str, T] | None:
        """The answer of the site among these whose turn it is, if one has answered since its last check."""
        site = next((name for name in self._turns if name in among and name in self._kept), None)
        if site is None:
            return None
        self._turns.remove(site)
        self._turns.append(site)
        self._answers[site] = 0
        return site, self._kept.pop(site)


@dataclass(frozen=True)
class _Answered:
    """A window that a site answered when the frames up to `until` were done, overtaken ones too."""

    site: Site
    inputs: Mapping[str, Array]
    embedding: Array
    until: int


class SpotChecks:
    """Checks the answers that `answered` is told of while `run` runs.

    `probe` is the bundle's, which the edge's own engine has to reproduce; `tiles` makes tiles that show
    nothing, others for each site: by the same ones two could tell that they work for one edge. `prepare`
    makes inputs of the window stage from tiles (see runtime.head). `checks` counts by site. `measured` is set
    once the probes of the first sites are compared. `say` gets sentences for a person.
    """

    def __init__(
        self,
        sites: Sites,
        local: Recompute,
        doubts: Doubts,
        probe: Probe,
        tiles: Callable[[], Sequence[Mapping[str, Array]]],
        tolerance: Tolerance,
        options: SpotCheckOptions,
        say: Callable[[str], None],
        prepare: Prepare | None = None,
    ) -> None:
        self.checks: Counter[str] = Counter()
        self.measured = anyio.Event()
        self._sites = sites
        self._local = local
        self._doubts = doubts
        self._probe = probe
        self._tiles = tiles
        self._tolerance = tolerance
        self._options = options
        self._say = say
        self._prepare = prepare or _as_they_are
        self._probes: dict[str, list[Probe]] = {}
        self._trust = {site.name: Trust(tolerance) for site in sites}
        self._measured: set[Site] = set()  # its probes are compared, or are on their way
        self._under_way = 0  # sites whose probes are
        self._able: set[str] = set()  # sites that can be checked
        self._liars: set[str] = set()
        self._samples: Samples[_Answered] = Samples()
        self._news = anyio.Event()

    def answered(self, site: Site, window: int, inputs: Mapping[str, Array], embedding: Array) -> None:
        """Told of every good answer of a site."""
        until = self._doubts.newest - LATER_FRAMES
        self._samples.add(site.name, _Answered(site, inputs, embedding, until))
        self._news.set()

    async def run(self) -> None:
        """Check until cancelled, or until the edge's engine fails or is found to be wrong, which is told."""
        try:
            await self._check_engine()
            with ungrouped():
                async with anyio.create_task_group() as tasks:
                    with self._noticing(tasks):
                        await self._check_on()
        except EngineError as exc:
            self.measured.set()
            self._say(f"no more spot checks, so that a site that lies is not found: {exc}")

    async def _probes_for(self, site: Site) -> list[Probe]:
        """Its own, the same ones whenever it connects."""
        if site.name not in self._probes:
            inputs = [await self._prepare(tile, self._order) for tile in self._tiles()]
            self._probes[site.name] = [Probe(each, await self._own(each), {}) for each in inputs]
        return self._probes[site.name]

    async def _check_engine(self) -> None:
        """Raises EngineError where sites would be compared with an engine that is wrong."""
        found = difference(self._probe, await self._own(self._probe.inputs))
        allowed = max(self._probe.tolerance.values())
        if not found <= allowed:
            raise EngineError(
                f"the window stage here answers the probe with a difference of {found:.3f}, allowed "
                f"{allowed}; copy the bundle again, and build its engine again where it has one"
            )

    async def _own(self, inputs: Mapping[str, Array]) -> Array:
        """The edge's own embedding [1, w, w, D] of a tile."""
        own = await self._local.embed(int(inputs["index"][0, 0]), inputs, self._order)
        if not np.isfinite(own).all():
            raise EngineError("the window stage here computes values that are not finite")
        return own[None]

    async def _check_on(self) -> None:
        while True:
            self._news = anyio.Event()
            if (taken := self._samples.take(self._able)) is None:
                await self._news.wait()
                continue
            await self._check(taken[1])
            await anyio.sleep(self._options.interval_s(self._local.mean_s))

    @property
    def _order(self) -> int:
        return self._doubts.newest + LATER_FRAMES

    @contextlib.contextmanager
    def _noticing(self, tasks: TaskGroup) -> Iterator[None]:
        notice = partial(self._notice, tasks)
        self._sites.on_change.append(notice)
        try:
            notice()
            yield
        finally:
            self._sites.on_change.remove(notice)

    def _notice(self, tasks: TaskGroup) -> None:
        """Measure every site that has connected since its last time."""
        self._measured &= set(self._sites.ready())
        for site in self._sites.ready():
            if site not in self._measured:
                self._measured.add(site)
                self._under_way += 1
                tasks.start_soon(self._measure, site)
        if not self._under_way:
            self.measured.set()

    async def _measure(self, site: Site) -> None:
        """Compare a site's probes with the edge's own. Until then it is not checked."""
        worst, most = await self._worst_probe(site), self._tolerance.most
        self._under_way -= 1
        if not self._under_way:
            self.measured.set()
        if worst > most:
            self._lied(site, f"answers a synthetic tile with an embedding that {_differs(worst, most)}")
            return
        self._trust[site.name].connected(worst)
        if site.health is not Health.EXCLUDED:  # one that fails now and then is no less to be checked
            self._able.add(site.name)
            self._news.set()

    async def _worst_probe(self, site: Site) -> float:
        """The largest difference of its probes. Those that it does not answer in time raise nothing."""
        worst, probes = 0.0, await self._probes_for(site)
        try:
            with anyio.move_on_after(LEARNING_S):
                for probe in probes:
                    answer = await site.client.probe_embedding(probe)
                    worst = max(worst, relative_rms(answer, probe.embedding))
        except SiteUntrusted as exc:
            self._sites.failed(site, exc)
        except SiteUnavailable:
            pass  # its tiles will show it
        return worst

    async def _check(self, answered: _Answered) -> None:
        site = answered.site
        own = await self._own(answered.inputs)
        if site.name in self._liars:
            return
        found, trust = relative_rms(answered.embedding, own[0]), self._trust[site.name]
        self.checks[site.name] += 1
        verdict = trust.judge(found)
        if verdict is Verdict.GOOD:
            self._doubts.honest(site.name, answered.until)
        elif verdict is Verdict.LIED:
            self._lied(site, f"answered a window with an embedding that {_differs(found, trust.limit)}")

    def _lied(self, site: Site, what: str) -> None:
        """Take a site out of use, and mark the frames that may show what it did; once."""
        if site.name in self._liars:
            return
        self._liars.add(site.name)
        self._able.discard(site.name)
        error = SiteUntrusted(site.name, f"{what}; {_WHY}")
        doubt = self._doubts.lied(site.name, str(error))
        self._sites.failed(site, error)
        if doubt.frames:
            self._say(f"{in_words(doubt.frames)} may be wrong, for site {site.name} had a part in them")


def _differs(found: float, limit: float) -> str:
    return f"differs from the edge's own by {100 * found:.3g} %, where it may by {100 * limit:.2g} %"


async def _as_they_are(tiles: Mapping[str, Array], order: int) -> Mapping[str, Array]:
    return tiles


def synthetic_tiles(bundle: Bundle, seed: int) -> list[dict[str, Array]]:
    """Inputs of the first stage, be it head or window, n = 1 each, that show nothing: black and white, on
    which engines differ most, then plain, smooth, blocky and noisy ones, at positions all over the grid."""
    rng = np.random.default_rng(seed)
    geometry = bundle.geometry
    side = geometry.tile_px

    def random_tile(cells: int, interpolation: int) -> Array:
        coarse = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        tile = cv2.resize(coarse, (side, side), interpolation=interpolation)
        noisy: Array = np.clip(tile + rng.normal(0, _NOISE, tile.shape), 0, 255).astype(np.uint8)
        return noisy

    tiles = [
        np.zeros(geometry.tile_shape, np.uint8),
        np.full(geometry.tile_shape, 255, np.uint8),
        np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), geometry.tile_shape),
        *(random_tile(cells, cv2.INTER_CUBIC) for cells in (3, 6, 12)),
        random_tile(8, cv2.INTER_NEAREST),
        random_tile(side, cv2.INTER_NEAREST),
    ]
    extents = geometry.extents(geometry.image_size, geometry.image_size)
    windows = rng.choice(geometry.windows, len(tiles), replace=False)
    return [
        window_inputs(bundle, tile_on_canvas(tile, window, geometry), extents, [window])
        for tile, window in zip(tiles, windows.tolist(), strict=True)
    ]


@contextlib.asynccontextmanager
async def checking(
    windows: SiteWindows,
    local: Recompute,
    doubts: Doubts,
    bundle: Bundle,
    wire_format: str,
    options: SpotCheckOptions,
    say: Callable[[str], None],
    prepare: Prepare | None = None,
) -> AsyncIterator[SpotChecks]:
    """Checks what the sites answer while the block runs, which begins after their probes, if these take no
    longer than BEGIN_S."""
    checks = SpotChecks(
        windows.sites,
        local,
        doubts,
        bundle.probe(),
        lambda: synthetic_tiles(bundle, secrets.randbits(64)),
        tolerance(bundle.stage("window").precision, wire_format),
        options,
        say,
        prepare,
    )
    windows.on_embedding = checks.answered
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checks.run)
        try:
            with anyio.move_on_after(BEGIN_S):
                await checks.measured.wait()
            yield checks
        finally:
            tasks.cancel_scope.cancel()
