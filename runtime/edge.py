"""The edge's engines and its link to the sites, put together in one place."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.assignment import default_cap
from runtime.client import SiteClient, choose_wire
from runtime.dispatch import Dispatcher, LocalWindows
from runtime.ledger import ExposureLedger
from runtime.reuse import Reuse
from runtime.sites import SiteConfig, operator_caps, read_sites
from stages.bundle import Bundle
from stages.engine import EngineThread, engine_factories
from stages.errors import InputError, ungrouped


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """How the edge computes and whom it trusts; see the help of `pedsam run`.

    Without `sites` every window runs here. `wire` None is the bundle's own format. `reuse_threshold` is in
    grey levels, see `runtime.reuse`.
    """

    sites: Path | None = None
    wire: str | None = None
    backend: str = "auto"
    threads: int | None = None
    accept_exposure: bool = False
    new_session: bool = False
    insecure: bool = False
    reuse_threshold: float = 0.0


@dataclass(frozen=True)
class Edge:
    """What is open while `open_edge` runs: engines for "global" and "decoder", and the way to embeddings."""

    engines: EngineThread
    dispatcher: Dispatcher
    wire_format: str


@contextlib.asynccontextmanager
async def open_edge(
    bundle: Bundle, sizes: Collection[tuple[int, int]], options: EdgeOptions, say: Callable[[str], None]
) -> AsyncIterator[Edge]:
    """Engines and sites for frames of these (height, width), open while the block runs.

    Raises a PedsamError, before any tile is sent, for whatever can be known to be wrong by then. `say` gets
    lines for a person when sites fail and come back; sites word part of them.
    """
    wire_format = choose_wire(bundle, options.wire)
    sites = read_sites(options.sites, options.insecure) if options.sites else ()
    check_exposure(sites, options.accept_exposure)
    windows = {window for size in sizes for window in bundle.geometry.windows_with_picture(*size)}
    names = ["global", "decoder", *(["window"] if not sites or bundle.has("window") else [])]
    factories = engine_factories(bundle, names, options.backend, options.threads)
    with ungrouped(), _open_ledger(sites, len(windows), options) as ledger:
        async with EngineThread(factories) as engines:
            local = LocalWindows(bundle, engines, wire_format) if "window" in engines else None
            clients = [SiteClient(site, bundle, wire_format) for site in sites]
            reuse = Reuse(options.reuse_threshold)
            dispatcher = Dispatcher(bundle, clients, ledger, local, say, reuse=reuse)
            async with dispatcher.connected(windows):
                yield Edge(engines, dispatcher, wire_format)


def check_exposure(sites: Sequence[SiteConfig], accept: bool) -> None:
    """Raise InputError when one operator alone would be shown every window, unless that is accepted."""
    operators = {site.operator for site in sites if not site.spare}
    if len(operators) == 1 and not accept:
        raise InputError(
            f"operator {min(operators)} alone would see the whole picture; add sites of other operators, or "
            "give --accept-exposure"
        )


@contextlib.contextmanager
def _open_ledger(sites: Sequence[SiteConfig], windows: int, options: EdgeOptions) -> Iterator[ExposureLedger]:
    """The ledger beside sites.toml, held by this process alone while the block runs."""
    operators = {site.name: site.operator for site in sites}
    regular = {site.operator for site in sites if not site.spare}
    caps = operator_caps(sites, default_cap(windows, len(regular))) if sites else {}
    path = options.sites.with_suffix(".ledger.json") if options.sites else None
    with _held_alone(path):
        yield ExposureLedger.open(path, operators, caps, options.new_session)


@contextlib.contextmanager
def _held_alone(ledger: Path | None) -> Iterator[None]:
    """Two runs that wrote one ledger would each forget what the other showed; the second is refused."""
    if ledger is None:
        yield
        return
    path = ledger.with_suffix(".lock")
    try:
        file = path.open("w")
    except OSError as exc:
        raise InputError(
            f"cannot write {path} ({exc.strerror}); the exposure ledger lies beside the sites file, in a "
            "folder that can be written"
        ) from exc
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InputError(
                f"another run uses the exposure ledger {ledger}; wait until it has ended"
            ) from exc
        yield
