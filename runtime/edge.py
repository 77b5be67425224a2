"""The edge's engines and its link to the sites, put together in one place."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio import to_thread

from runtime.detectors.kinds import KINDS, own_find
from runtime.detectors.network import DetectorOptions, detector_device, detectors_bytes
from runtime.encoder import ImageEncoder, LocalWindows, streaming_of
from runtime.encoder_choice import WHOLE, check_form, make_global
from runtime.frames.boxes import BoxXyxy
from runtime.frames.kept import KeptBoxes
from runtime.global_stage import OnPart
from runtime.keeper import Keeper, KeepOptions, keeping
from runtime.sites.areas import Areas
from runtime.sites.assignment import default_cap
from runtime.sites.client import OnSent, SiteClient, choose_wire
from runtime.sites.config import SiteConfig, operator_caps, read_sites
from runtime.sites.health import Sites
from runtime.sites.ledger import ExposureLedger
from runtime.sites.may_see import MaySee
from runtime.sites.reuse import Reuse
from runtime.sites.spot_checks import SpotCheckOptions, SpotChecks, checking
from runtime.sites.start import LOSE, NO_STAGE
from runtime.sites.windows import OnAnswer, SiteWindows, open_sites
from stages.bundle import Bundle
from stages.engines.backends import engine_factories
from stages.engines.thread import EngineThread
from stages.errors import InputError, ungrouped
from stages.needs import require_edge
from stages.places import edge_stages


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """How the edge computes and whom it trusts; see the help of `pedsam run`.

    Without `sites` every window runs here. `wire` None is the bundle's own format. `ledger` None is beside
    `sites`. `reuse_threshold` is in grey levels, see `runtime.sites.reuse`. At most
    `spot_checks` windows a second are checked, 0 for none, in `spot_check_share` of the engine's time.

    What `keep_boxes` touch, in pixels of the frame, never goes to a site; nor does what `keep` names, by
    kinds of `runtime.detectors.kinds` that look at `keep_px` pixels, nor with `keep_objects` what is
    segmented. With `keep_for_session` a position stays that was kept once. `when_sites_fail` is "local" or
    "lose"; None is local where the edge has the window stage. `encoder` is one of
    `runtime.encoder_choice.FORMS`; None has it measured where there are sites, and is whole without.
    """

    sites: Path | None = None
    wire: str | None = None
    backend: str = "auto"
    threads: int | None = None
    accept_exposure: bool = False
    new_session: bool = False
    insecure: bool = False
    ledger: Path | None = None
    reuse_threshold: float = 0.0
    spot_checks: float = SpotCheckOptions.rate
    spot_check_share: float = SpotCheckOptions.share
    keep_boxes: tuple[BoxXyxy, ...] = ()
    keep: tuple[str, ...] = ()
    keep_px: int = DetectorOptions.px
    keep_objects: bool = False
    keep_for_session: bool = False
    when_sites_fail: str | None = None
    encoder: str | None = None

    @property
    def kept(self) -> KeptBoxes:
        """What never leaves. Raises InputError for a box that cannot be meant."""
        return KeptBoxes(self.keep_boxes)

    def keeping(self, films: bool) -> KeepOptions:
        """What of a source is kept, whose frames follow each other in time or not."""
        return KeepOptions(
            boxes=self.kept,
            kinds=self.keep,
            detectors=DetectorOptions(self.keep_px, self.threads, detector_device(self.backend)),
            objects=self.keep_objects,
            for_session=self.keep_for_session,
            films=films,
        )


@dataclass(frozen=True)
class Edge:
    """What is open while `open_edge` runs: engines of the stages that an edge needs, the way to image
    embeddings, the sites, what each operator has seen, the `areas` of windows, and what operators `may_see`
    as far as is known at the start. `spot_checks` is None where no site is checked. `keeper` names what stays
    here."""

    engines: EngineThread
    encoder: ImageEncoder
    sites: Sites
    ledger: ExposureLedger
    areas: Areas
    may_see: Mapping[str, MaySee]
    wire_format: str
    spot_checks: SpotChecks | None
    keeper: Keeper

    @property
    def served_by_sites(self) -> bool:
        """Whether a site has run a window so far."""
        return any(site.client.tiles for site in self.sites)


@contextlib.asynccontextmanager
async def open_edge(
    bundle: Bundle,
    sizes: Collection[tuple[int, int]],
    options: EdgeOptions,
    on_message: Callable[[str], None],
    on_answer: OnAnswer | None = None,
    on_sent: OnSent | None = None,
    on_part: OnPart | None = None,
    *,
    films: bool = True,
) -> AsyncIterator[Edge]:
    """Engines and sites for frames of these (height, width), open while the block runs.

    Raises a PedsamError, before any tile is sent, for whatever can be known to be wrong by then.
    `on_message` gets sentences for a person when sites or the ledger fail and come back, those of the ledger
    and of the choice of an encoder in another thread; sites word part of them.
    `on_answer` is told of every answer of a site, `on_sent` of every request with tiles before it leaves,
    `on_part` of what the global stage did ahead of a frame's last window.
    `films`: the frames follow each other in time.
    """
    wire_format = choose_wire(bundle, options.wire)
    configs = read_sites(options.sites, options.insecure) if options.sites else ()
    check_exposure(configs, options.accept_exposure)
    check_computed_here(bundle, options)
    keep = options.keeping(films) if configs else KeepOptions()
    kept_windows = {window for size in sizes for window in keep.boxes.windows(bundle.geometry, *size)}
    areas = Areas.of(bundle.geometry, sizes, kept_windows)
    windows = areas.windows
    names = [*edge_stages(bundle), *(["window"] if not configs or bundle.has("window") else [])]
    require_edge(
        bundle,
        names,
        options.backend,
        options.threads,
        beside=detectors_bytes(len(keep.kinds), keep.detectors.px),
    )
    check_form(bundle, options.encoder)
    form = options.encoder or (None if configs else WHOLE)
    factories = engine_factories(bundle, names, options.backend, options.threads)
    factories["global"] = partial(
        make_global, bundle, form, options.backend, options.threads, windows, on_message
    )
    clients = [SiteClient(config, bundle, wire_format, on_sent=on_sent) for config in configs]
    with ungrouped(), await _open_ledger(configs, len(windows), options, on_message) as ledger:
        operators = {config.operator for config in configs}
        check_earlier_exposure(ledger, operators, windows, options.accept_exposure, on_message)
        ledger.keep(kept_windows)
        async with keeping(keep, ledger) as keeper, EngineThread(factories) as engines:
            local = LocalWindows(bundle, engines, wire_format) if "window" in engines else None
            fallback = local is not None and options.when_sites_fail != "lose"
            async with open_sites(
                bundle,
                clients,
                ledger,
                windows,
                on_message,
                window_engine=fallback,
                on_answer=on_answer,
                no_fallback=LOSE if local else NO_STAGE,
                areas=areas,
            ) as sites:
                reuse = Reuse(options.reuse_threshold)
                encoder = ImageEncoder(
                    bundle,
                    engines,
                    sites,
                    local,
                    reuse,
                    keep=keeper,
                    fallback=fallback or not configs,
                    streaming=streaming_of(engines),
                    on_part=on_part,
                )
                async with _spot_checks(
                    sites, encoder, local, bundle, wire_format, options, on_message
                ) as checks:
                    seen = sites.placement.may_see()
                    yield Edge(
                        engines, encoder, sites.sites, ledger, areas, seen, wire_format, checks, keeper
                    )


def _spot_checks(
    sites: SiteWindows,
    encoder: ImageEncoder,
    local: LocalWindows | None,
    bundle: Bundle,
    wire_format: str,
    options: EdgeOptions,
    on_message: Callable[[str], None],
) -> contextlib.AbstractAsyncContextManager[SpotChecks | None]:
    if local is None or not options.sites or not options.spot_checks:
        return contextlib.nullcontext()
    chosen = SpotCheckOptions(options.spot_checks, options.spot_check_share)
    return checking(
        sites, local, encoder.doubts, bundle, wire_format, chosen, on_message, encoder.head.inputs
    )


def check_exposure(sites: Sequence[SiteConfig], accept: bool) -> None:
    """Raise InputError when one operator alone would be shown every window, unless that is accepted."""
    operators = {site.operator for site in sites if not site.spare}
    if len(operators) == 1 and not accept:
        raise InputError(
            f"operator {min(operators)} alone would see the whole picture; it takes at least 2 operators: "
            "add a site of another one, or give --accept-exposure"
        )


def check_computed_here(bundle: Bundle, options: EdgeOptions) -> None:
    """Raise InputError when windows are to be computed here beside the sites, and cannot be."""
    if options.sites is None or bundle.has("window"):
        return
    for asked, option in (
        (options.keep_boxes, "--keep-box"),
        (options.keep, "--keep"),
        (options.keep_objects, "--keep-objects"),
        (options.when_sites_fail == "local", "--when-sites-fail local"),
    ):
        if asked:
            raise InputError(
                f"{option} has windows computed here, and {bundle.path} has no window stage; copy it to the "
                "edge, or leave the option out"
            )


def check_detectors(options: EdgeOptions) -> None:
    """Raise InputError for a detector of `keep` that is not there."""
    for kind in options.keep:
        if kind not in KINDS:
            own_find(kind)


def check_earlier_exposure(
    ledger: ExposureLedger,
    operators: Collection[str],
    windows: Collection[int],
    accept: bool,
    on_message: Callable[[str], None],
) -> None:
    """Tell which operators have seen more in this session than their cap of this run.

    Earlier runs had other caps, or frames of another shape.

    Raises InputError when one of them has seen all `windows` of this run, unless that is accepted.
    """
    for operator in sorted(operators):
        seen, cap = ledger.exposure(operator), ledger.cap(operator)
        if len(seen) <= cap:
            continue
        if len(windows) > cap and seen.issuperset(windows) and not accept:
            raise InputError(
                f"operator {operator} has seen the whole picture in this session; give --new-session to "
                "start over, or --accept-exposure"
            )
        on_message(
            f"operator {operator} has seen {len(seen)} windows in this session, more than its cap of {cap} "
            "in this run; --new-session starts over"
        )


async def _open_ledger(
    sites: Sequence[SiteConfig], windows: int, options: EdgeOptions, on_message: Callable[[str], None]
) -> ExposureLedger:
    """The ledger where it is asked for, else beside sites.toml; without sites one in memory."""
    operators, caps = _shares(sites, windows)
    path = ledger_path(options.sites, options.ledger)
    return await to_thread.run_sync(
        ExposureLedger.open, path, operators, caps, options.new_session, on_message
    )


def check_ledger(sites: Sequence[SiteConfig], windows: Collection[int], options: EdgeOptions) -> None:
    """Raise the InputError that a run with these sites and windows would raise for its ledger; changes
    nothing."""
    path = ledger_path(options.sites, options.ledger)
    if path is None:
        return
    operators, caps = _shares(sites, len(windows))
    ledger = ExposureLedger.looked_at(path, operators, caps, options.new_session)
    check_earlier_exposure(
        ledger, set(operators.values()), windows, options.accept_exposure, lambda line: None
    )


def _shares(sites: Sequence[SiteConfig], windows: int) -> tuple[dict[str, str], dict[str, int]]:
    """The operator of each site, and how many windows each operator may see."""
    regular = {site.operator for site in sites if not site.spare}
    caps = operator_caps(sites, default_cap(windows, len(regular))) if sites else {}
    return {site.name: site.operator for site in sites}, caps


def ledger_path(sites: Path | None, ledger: Path | None) -> Path | None:
    """Where a run keeps its ledger: where it is asked for, else beside sites.toml; None without sites."""
    if sites is None:
        return None
    return ledger or sites.with_suffix(".ledger.json")
