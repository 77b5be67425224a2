"""Check that every site of a sites.toml can do what a run needs, without sending it any picture.

Without sites this machine alone is measured, which then runs every window.

Sites are examined at the same time, each step after the one before it: a step that fails ends its site, in
the words a run would use. Those that pass are then measured one by one, so that none disturbs another, and
last all together, as the loop uses them.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import anyio

from runtime.check.edge_speed import NOTHING_KEPT, measure_edge
from runtime.check.prediction import (
    NOT_HERE,
    EdgeTimes,
    FrameBytes,
    Keeping,
    Prediction,
    Shares,
    bytes_of_frame,
    cost_of_keeping,
    plan_frame,
    predict,
)
from runtime.check.reachability import Certificate, connect_time_s, resolve, tls_handshake
from runtime.check.site_speed import Patience, Speed, Together, measure_alone, measure_together
from runtime.check.warnings import SiteFacts, warnings
from runtime.edge import check_exposure
from runtime.keeper import KeepOptions
from runtime.sites.client import TIMEOUTS, SiteClient, Timeouts, choose_wire
from runtime.sites.config import SiteConfig
from runtime.sites.reasons import unforeseen
from runtime.sites.spot_checks import SpotCheckOptions
from stages.bundle import Bundle
from stages.errors import (
    BundleError,
    EngineError,
    InputError,
    PedsamError,
    SiteError,
    SiteUnavailable,
    SiteUntrusted,
    ungrouped,
)
from stages.network import is_loopback

STEPS = ("name", "tcp", "tls", "http", "token", "digest", "probe", "backend", "speed")

_NO_ROOM = "no prediction: {} windows of every frame fit under no cap, and {}"
_NO_STAGE = (
    "{} has no window stage, and without --sites every window runs here; copy it to the edge, or give --sites"
)
_NOT_KEPT = "no prediction: kept windows are computed here, and this bundle has no window stage"
_NO_ENGINE = "this bundle has no window stage here; copy it to the edge, where its memory has room for it"


class CheckState(enum.Enum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Step:
    """One line of a site: what was found when it is ok, the whole sentence when it failed."""

    name: str
    state: CheckState
    text: str = ""


@dataclass
class SiteReport:
    """What was found out about a site; `alone` and `together_s` when it could be measured.

    `together_s` are seconds for its `windows` of a frame while the other sites work on theirs. Parts of
    `steps` and `headers` were worded by the site.
    """

    config: SiteConfig
    steps: list[Step] = field(default_factory=list)
    addresses: tuple[str, ...] = ()
    certificate: Certificate | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answered_at: datetime | None = None
    alone: Speed | None = None
    windows: int = 0
    together_s: float | None = None

    @property
    def usable(self) -> bool:
        return len(self.steps) == len(STEPS) and all(step.state is CheckState.OK for step in self.steps)

    @property
    def failure(self) -> str | None:
        return next((step.text for step in self.steps if step.state is CheckState.FAILED), None)

    def passed(self, text: str) -> None:
        """The next step is ok."""
        self.steps.append(Step(STEPS[len(self.steps)], CheckState.OK, text))

    def failed(self, sentence: str) -> None:
        """The next step failed, or the last one when all had passed; nothing after it is tried."""
        del self.steps[len(STEPS) - 1 :]
        self.steps.append(Step(STEPS[len(self.steps)], CheckState.FAILED, sentence))
        self.steps += [Step(name, CheckState.SKIPPED) for name in STEPS[len(self.steps) :]]


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """`size` is (height, width) of the frames to predict for, and `kept` their windows that never leave;
    `keep` are the detectors that look at each; the rest as in EdgeOptions."""

    size: tuple[int, int] = (1080, 1920)
    kept: frozenset[int] = frozenset()
    keep: KeepOptions = NOTHING_KEPT
    wire: str | None = None
    backend: str = "auto"
    threads: int | None = None
    spot_checks: float = SpotCheckOptions.rate
    price_per_gb: float | None = None
    timeouts: Timeouts = TIMEOUTS


@dataclass
class Report:
    """All that was found; `notes` say why there is no prediction, or no spot check, `problems` why a run
    would not start on this machine."""

    bundle: Bundle
    wire: str
    size: tuple[int, int]
    sites: list[SiteReport]
    warnings: list[str] = field(default_factory=list)
    shares: Shares | None = None
    edge: EdgeTimes | None = None
    prediction: Prediction | None = None
    keeping: Keeping | None = None
    fps_without_detectors: float | None = None
    notes: list[str] = field(default_factory=list)
    edge_error: str | None = None
    problems: list[str] = field(default_factory=list)
    price_per_gb: float | None = None

    @property
    def usable(self) -> bool:
        """Whether every site can be used, if there are any, and this machine can do its part."""
        return all(site.usable for site in self.sites) and self.edge_error is None and not self.problems


async def check_sites(
    bundle: Bundle,
    sites: Sequence[SiteConfig],
    options: CheckOptions,
    say: Callable[[str], None] = lambda doing: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Examine, measure, warn and predict; without sites only measure this machine and predict.

    `say` gets what is being done, for a status line; `tell` a line to be kept about each site that is waited
    for because it is busy.

    Raises BundleError when the bundle lacks what every run needs; what a site does wrong is in the report.
    """
    async with contextlib.AsyncExitStack() as stack:
        return await _Check(bundle, sites, options, say, tell, stack).run()


class _Check:
    """One check in progress; `stack` keeps the connections of the sites that pass."""

    def __init__(
        self,
        bundle: Bundle,
        sites: Sequence[SiteConfig],
        options: CheckOptions,
        say: Callable[[str], None],
        tell: Callable[[str], None],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        wire_format = choose_wire(bundle, options.wire)
        self._report = Report(
            bundle,
            wire_format,
            options.size,
            [SiteReport(site) for site in sites],
            price_per_gb=options.price_per_gb,
        )
        self._bundle = bundle
        self._probe = bundle.probe()
        self._options = options
        self._say = say
        self._patience = Patience(tell)
        self._stack = stack
        self._clients: dict[str, SiteClient] = {}

    async def run(self) -> Report:
        report = self._report
        if not report.sites:
            await self._predict_here()
            return report
        self._say(f"asking {len(report.sites)} sites")
        async with anyio.create_task_group() as tasks:
            for site in report.sites:
                tasks.start_soon(self._run_part, site, self._examine)
        for site in report.sites:
            if site.config.name in self._clients:
                self._say(f"measuring site {site.config.name}")
                await self._run_part(site, self._measure)
        if any(site.usable for site in report.sites):
            await self._predict()
        report.notes += self._no_spot_checks()
        seen = [
            SiteFacts(s.config, s.addresses, s.certificate, s.headers, s.answered_at) for s in report.sites
        ]
        report.warnings = [*self._single_operator(), *warnings(seen, datetime.now(timezone.utc))]
        return report

    def _single_operator(self) -> list[str]:
        try:
            check_exposure([site.config for site in self._report.sites], accept=False)
        except InputError as exc:
            return [str(exc)]
        return []

    def _no_spot_checks(self) -> list[str]:
        """Why a run would not notice a site that lies, if it would not."""
        why = None if self._bundle.has("window") else _NO_ENGINE
        if not self._options.spot_checks:
            why = "--spot-checks is 0"
        return [f"no spot checks, so a site that lies is not found: {why}"] if why else []

    async def _run_part(self, site: SiteReport, part: Callable[[SiteReport], Awaitable[None]]) -> None:
        """Run one part of a site's examination; its error is recorded for the site, and the others go on."""
        try:
            await part(site)
        except Exception as exc:
            known = isinstance(exc, PedsamError)
            site.failed(str(exc if known else SiteUnavailable(site.config.name, unforeseen(exc))))
            self._clients.pop(site.config.name, None)

    async def _examine(self, site: SiteReport) -> None:
        config, timeouts = site.config, self._options.timeouts
        site.addresses = await resolve(config, timeouts.probe_s)
        site.passed(", ".join(site.addresses))
        site.passed(f"{await connect_time_s(config, timeouts.connect_s) * 1e3:.1f} ms")
        context = config.ssl_context()
        if context is None:
            site.passed("none: plain http")
        else:
            version, site.certificate = await tls_handshake(config, context, timeouts.connect_s)
            site.passed(version)
        client = SiteClient(config, self._bundle, self._report.wire, timeouts, on_busy=self._patience)
        await self._stack.enter_async_context(client)
        await self._ask_protocol(site, client)
        self._clients[config.name] = client

    async def _ask_protocol(self, site: SiteReport, client: SiteClient) -> None:
        """The steps over HTTP: http, token, digest, probe, backend."""
        site.headers = await client.ping()
        site.answered_at = datetime.now(timezone.utc)
        site.passed(site.headers.get("Server", "answers"))
        token = "accepted" if site.config.token else "none in sites.toml"
        try:
            await client.check_digest()
        except SiteUntrusted:  # the token was accepted
            site.passed(token)
            raise
        site.passed(token)
        site.passed(f"same: {self._bundle.site_digest.removeprefix('sha256:')[:8]}")
        difference = await client.check_probe(self._probe)
        site.passed(f"{difference:.1g} of {client.tolerance(self._probe):.2g}")
        try:
            site.passed(await client.platform())
        except SiteError:  # a run does not need it
            site.passed("unknown")

    async def _measure(self, site: SiteReport) -> None:
        site.alone = await measure_alone(self._clients[site.config.name], self._probe)
        site.passed(f"{site.alone.tiles_per_s:.1f} tiles/s")

    async def _predict(self) -> None:
        report = self._report
        working = {s.config.name: s.alone.tiles_per_s for s in report.sites if s.usable and s.alone}
        configs = [site.config for site in report.sites]
        kept = self._options.kept
        plan = report.shares = plan_frame(self._bundle.geometry, report.size, configs, working, kept)
        self._say("measuring all sites together")
        try:
            together = await measure_together(self._clients, plan.sites, self._probe)
        except SiteError as exc:
            (site,) = (site for site in report.sites if site.config.name == exc.site)
            site.failed(str(exc))
            report.notes.append("no prediction: a site failed while all of them were busy")
            return
        for site in report.sites:
            site.windows = plan.sites.get(site.config.name, 0)
            site.together_s = together.sites_s.get(site.config.name)
        report.edge = await self._measure_edge()
        if report.edge is None:
            return
        if plan.kept and report.edge.window_s is None:
            report.notes.append(_NOT_KEPT)
            return
        if plan.at_edge and report.edge.window_s is None:
            report.notes.append(_NO_ROOM.format(plan.at_edge, NOT_HERE.format(plan.least_cap)))
            return
        taken = {name: self._clients[name].max_batch for name in plan.sites}
        sizes = bytes_of_frame(self._bundle, plan, taken, together.heads)
        report.prediction = predict(plan, together, report.edge, sizes, self._shared_s())
        if report.edge.detect_s:
            unwatched = report.edge.without_detectors()
            report.fps_without_detectors = predict(plan, together, unwatched, sizes, self._shared_s()).fps
        if plan.kept:
            without = plan_frame(self._bundle.geometry, report.size, configs, working)
            all_sizes = bytes_of_frame(self._bundle, without, taken, together.heads)
            report.keeping = cost_of_keeping(
                plan, without, together, report.edge, sizes, all_sizes, report.wire, self._shared_s()
            )

    async def _predict_here(self) -> None:
        """As a run without sites does it: every window runs on this machine."""
        report = self._report
        windows = self._bundle.geometry.windows_with_picture(*report.size)
        report.shares = Shares({}, at_edge=len(windows))
        if not self._bundle.has("window"):
            report.edge_error = _NO_STAGE.format(self._bundle.path)
            return
        report.edge = await self._measure_edge()
        if report.edge is not None:
            report.prediction = predict(report.shares, Together({}, 0.0), report.edge, FrameBytes({}))

    async def _measure_edge(self) -> EdgeTimes | None:
        """None where a run cannot do its part here; the report then says why."""
        self._say("measuring this machine's stages")
        options = self._options
        try:
            with ungrouped():
                return await measure_edge(
                    self._bundle, self._report.size, options.backend, options.threads, options.keep
                )
        except (BundleError, EngineError, InputError) as exc:
            self._report.edge_error = str(exc)
            return None

    def _shared_s(self) -> float:
        """Processor seconds a frame that sites on this machine take from it: a core each while they work."""
        return sum(
            site.windows / site.alone.tiles_per_s
            for site in self._report.sites
            if site.alone and any(map(is_loopback, site.addresses))
        )
