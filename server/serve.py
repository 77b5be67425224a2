"""Run a site until a signal stops it.

It listens first and then loads its engines, which may take minutes: meanwhile it is live but not ready, and
requests are answered 503. Shutdown has phases: (1) the socket stops listening, readiness turns false and new
requests on open connections are answered 503, (2) requests in progress finish, for at most `grace_s`, (3)
tiles that still wait or run are answered 503, other requests are cancelled and open connections are aborted,
(4) the engines close, after their current call. What is not done FORCED_S after the grace period is given up
and the process ends; a second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio

from server.http.app import PUBLIC_PATHS, SiteHandlers, answer_limit, body_limit
from server.http.connections import Tls
from server.http.endpoint import Address, Endpoint
from server.keys import load_keys, renew
from server.limits import MIB, Limits, Quota
from server.logs import facts
from server.model.batcher import STALL_S, Batcher
from server.model.versions import STAGE, loaded, numbered
from server.periodic import periodic_checks
from server.state import SiteState
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.errors import InputError
from stages.machine import own_ceilings, require
from stages.needs import site_need
from stages.network import is_loopback
from stages.places import stages_for
from stages.stops import stop_signals

log = logging.getLogger("pedsam.site")

HEALTH_CONNECTIONS = 16  # probes open one at a time
FORCED_S = 10.0  # after the grace period: for the engines' current call, which nobody waits for any more
ALARM_S = 5.0  # after that: when not even the event loop runs


@dataclass(frozen=True)
class ServeOptions:
    """`port` 0 takes a free one. `max_batch` None leaves it to the engine, `threads` None to the library.

    `keys` is the site's folder from `pedsam keys`: with it the site speaks TLS to clients that have a
    certificate and a token, else plain HTTP to anyone. A connection whose TLS handshake takes longer than
    `handshake_s` is aborted. On `health_port` of 127.0.0.1 it answers, in plain HTTP and without a token,
    whether it is live and ready. An engine call that takes longer than `stall_s` makes it neither.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    backend: str = "auto"
    threads: int | None = None
    max_batch: int | None = None
    max_waiting: int = 100
    grace_s: float = 10.0
    insecure: bool = False
    keys: Path | None = None
    limits: Limits = field(default_factory=Limits)
    health_port: int | None = None
    handshake_s: float = 10.0
    stall_s: float = STALL_S


@dataclass(frozen=True)
class RunningSite:
    """A site that answers at `url`, and about its health alone at `health_url`."""

    url: str
    state: SiteState
    health_url: str | None = None

    @property
    def batcher(self) -> Batcher:
        """That of the latest version."""
        return self.state.versions[self.state.latest].batcher

    @property
    def backend(self) -> str:
        """What runs the latest version."""
        return self.state.versions[self.state.latest].backend


@contextlib.asynccontextmanager
async def running_site(
    bundles: Bundle | Sequence[Bundle],
    options: ServeOptions,
    make: Callable[[Bundle], Engine] | None = None,
) -> AsyncIterator[RunningSite]:
    """A site serving on its socket for as long as the block runs; leaving the block shuts it down in phases.

    Several bundles are served as versions 1, 2, ... of the model. `make` makes what runs a bundle's window
    stage; by default that is what `options` say. Raises InputError for an address that may not or cannot be
    bound, for keys that cannot be used and for limits without room for one request, BundleError or
    EngineError when a window stage cannot be opened or does not reproduce its bundle's probe.
    """
    _check_plain_http(options)
    listed = [bundles] if isinstance(bundles, Bundle) else bundles
    limits = options.limits if make else _limits(listed, options)
    keys = load_keys(options.keys) if options.keys else None
    state = SiteState(numbered(listed), keys, limits=limits)
    site = SiteHandlers(state)
    endpoint, drain = _main_endpoint(site, options), partial(_drain, site, options.grace_s)

    def make_window(bundle: Bundle) -> Engine:
        engine = make_engine(bundle, STAGE, options.backend, options.threads)
        stages_for(bundle, "site")
        return engine

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(periodic_checks(state))
        health_url = None
        if options.health_port is not None:
            health_endpoint = _health_endpoint(site, options.health_port)
            stack.push_async_callback(health_endpoint.close)  # last: until then it answers "not ready"
            health_url = await health_endpoint.open()
        stack.push_async_callback(endpoint.close, drain)  # when loading fails
        url = await endpoint.open()
        log.info("%s is live, loading %d engines", url, len(listed), extra=facts("listening", url=url))
        loading = loaded(
            state.bundles, make or make_window, options.max_batch, options.max_waiting, options.stall_s
        )
        versions = await stack.enter_async_context(loading)
        stack.push_async_callback(
            endpoint.close, drain
        )  # before the engines; the other call does nothing then
        state.open(versions)
        yield RunningSite(url, state, health_url)


def _limits(bundles: Sequence[Bundle], options: ServeOptions) -> Limits:
    """Those of `options`, with less memory for bodies and answers where this process may take no more.

    Raises EngineError when not even the model and two of its largest requests have room.
    """
    least_mib = -(-2 * (body_limit(bundles) + answer_limit(bundles)) // MIB)
    need = site_need(bundles, options.backend, options.threads, least_mib * MIB)
    ceilings = own_ceilings()
    require(need, f"a site with {' and '.join(bundle.geometry.name for bundle in bundles)}", ceilings)
    more_mib = min((each.left(need) for each in ceilings), default=options.limits.memory_mib * MIB) // MIB
    return replace(options.limits, memory_mib=min(options.limits.memory_mib, least_mib + more_mib))


def _main_endpoint(site: SiteHandlers, options: ServeOptions) -> Endpoint:
    state = site.state
    tls = Tls(state.keys.context, options.handshake_s) if state.keys else None
    address = Address(options.host, options.port, "--port or --host", tls)
    return Endpoint(site.application(), address, state, state.quotas.connections, 2 * site.body_limit + MIB)


def _health_endpoint(site: SiteHandlers, port: int) -> Endpoint:
    """For this machine alone, with a quota of its own: connections to the main endpoint do not use it up."""
    address = Address("127.0.0.1", port, "--health-port")
    quota = Quota(HEALTH_CONNECTIONS, HEALTH_CONNECTIONS)
    return Endpoint(site.health_application(), address, site.state, quota, MIB)


async def _drain(site: SiteHandlers, grace_s: float) -> None:
    late = await site.drain(grace_s)
    log.info("requests are done, %d given up", late, extra=facts("drained", given_up=late))


def _check_plain_http(options: ServeOptions) -> None:
    if options.keys is None and not options.insecure and not is_loopback(options.host):
        raise InputError(
            f"{options.host} is not a loopback address and this site speaks plain HTTP: anyone on the "
            "way could read the tiles; give --keys with what `pedsam keys` made for this site, or give "
            "--insecure on a network you trust"
        )


Say = Callable[[str], None]


async def serve(
    bundles: Sequence[Bundle],
    options: ServeOptions,
    say: Say = print,
    make: Callable[[Bundle], Engine] | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or, without keys, SIGHUP, which else renews them. `say` gets the
    lines for the terminal.

    From the first signal on the process is to end: see `_end_for_sure`. `make` as for `running_site`.
    """
    loop = asyncio.get_running_loop()
    site: RunningSite | None = None
    stops = [number for number in stop_signals() if number != signal.SIGHUP or options.keys is None]
    with anyio.CancelScope() as running:

        def stop() -> None:
            _end_for_sure(stops, options.grace_s + FORCED_S, say)
            running.cancel()
            _announce(say, "stopping", "stopping: requests under way are finished first")

        for number in stops:
            loop.add_signal_handler(number, stop)
        async with running_site(bundles, options, make) as site:
            if options.keys:
                loop.add_signal_handler(signal.SIGHUP, _renew_keys, site.state)
            _announce_ready(site, say)
            _tell_of_less_memory(site.state.limits.memory_mib, options.limits.memory_mib, say)
            await anyio.sleep_forever()
    _announce_stopped(site, say)


def _end_for_sure(stops: Sequence[signal.Signals], within_s: float, say: Say) -> None:
    """Have the next of `stops` end this process at once, and `within_s` do so too, whatever hangs in it."""
    loop = asyncio.get_running_loop()
    for number in stops:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    def give_up() -> None:
        sentence = f"not stopped within {within_s:g} s, so ended; an engine call does not come back"
        say(sentence)
        log.error("%s", sentence, extra=facts("given_up"))
        os._exit(1)

    loop.call_later(within_s, give_up)
    signal.alarm(math.ceil(within_s + ALARM_S))


def _announce(say: Say, event: str, sentence: str, **values: str | int) -> None:
    """Print and log a sentence."""
    say(sentence)
    log.info("%s", sentence, extra=facts(event, **values))


def _announce_ready(site: RunningSite, say: Say) -> None:
    for version in site.state.versions.values():
        say(f"site ready: {version.description}")
        say(f"digest {version.bundle.site_digest}")
    if keys := site.state.keys:
        say(f"certificate until {keys.until:%Y-%m-%d}; clients need a certificate and a token")
    if site.health_url:
        say(f"health on {site.health_url}{PUBLIC_PATHS[-1]}")
    _announce(say, "ready", f"listening on {site.url}", url=site.url)


def _tell_of_less_memory(memory_mib: int, wanted_mib: int, say: Say) -> None:
    if memory_mib < wanted_mib:
        sentence = f"bodies and answers get {memory_mib} MiB, not {wanted_mib}: memory here leaves no more"
        _announce(say, "less_memory", sentence, mib=memory_mib)


def _announce_stopped(site: RunningSite | None, say: Say) -> None:
    done = [version.statistics for version in site.state.versions.values()] if site else []
    counts = {
        "tiles": sum(each.tiles for each in done),
        "batches": sum(each.batches for each in done),
        "refused": sum(each.refused for each in done),
    }
    sentence = "stopped after {tiles} tiles in {batches} batches, {refused} refused".format(**counts)
    _announce(say, "stopped", sentence, **counts)


def _renew_keys(state: SiteState) -> None:
    """Load the keys again; when they cannot be used, that is logged and those in use stay."""
    if state.keys is None:
        raise RuntimeError("this site has no keys")
    try:
        state.keys = renew(state.keys)
    except InputError as exc:
        log.error("the keys in use stay: %s", exc, extra=facts("keys_not_renewed"))
        return
    until = f"{state.keys.until:%Y-%m-%d}"
    log.info("keys renewed, certificate until %s", until, extra=facts("keys_renewed", until=until))
