"""Run a site until it is told to stop.

Shutdown has phases: (1) the socket stops listening, readiness turns false and new requests on open
connections are answered 503, (2) requests under way finish, for at most `grace_s`, (3) tiles that still wait
or run are answered 503, what is left is cancelled after FAREWELL_S and who is still connected is cut off,
(4) the engine closes, after the call it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from aiohttp import web

from server.admission import Admission
from server.app import Site, http_log
from server.batcher import Batcher
from server.connections import Listener, Tls
from server.keys import SiteKeys, load_keys
from server.limits import MIB, Limits
from server.refusals import Refusals
from stages.bundle import Bundle
from stages.engine import Engine, EngineThread, make_engine
from stages.errors import InputError
from stages.network import is_loopback

STAGE = "window"
FAREWELL_S = 1.0  # after the grace of a shutdown: time to send "this site is stopping"
LINGER_S = 1.0  # after a refusal, for the rest of its body: a connection closed before that loses the answer


@dataclass(frozen=True)
class ServeOptions:
    """`port` 0 takes a free one. `max_batch` None leaves it to the engine, `threads` None to the library.

    `keys` is the site's folder from `pedsam keys`: with it the site speaks TLS to clients that have a
    certificate and a token, else plain HTTP to anyone. Who has not finished the TLS handshake after
    `handshake_s` is hung up on. `limits` are what one site lets its clients take.
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
    handshake_s: float = 10.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class RunningSite:
    """A site that answers at `url`."""

    url: str
    backend: str
    batcher: Batcher
    connections: Listener
    admission: Admission
    refusals: Refusals
    keys: SiteKeys | None = None


@contextlib.asynccontextmanager
async def running_site(
    bundle: Bundle, options: ServeOptions, engine: Callable[[], Engine] | None = None
) -> AsyncIterator[RunningSite]:
    """A site serving on its socket for as long as the block runs; leaving the block shuts it down in phases.

    `engine` makes what runs the window stage; by default that is what `options` say. Raises InputError for
    an address that may not or cannot be bound and for keys that cannot be used, BundleError or EngineError
    when the window stage cannot be opened.
    """
    _check_exposed(options)
    keys = load_keys(options.keys) if options.keys else None

    def make() -> Engine:
        return make_engine(bundle, STAGE, options.backend, options.threads)

    async with EngineThread({STAGE: engine or make}) as engines:
        window = engines.engine(STAGE)
        max_batch = options.max_batch or window.preferred_batch
        async with Batcher(engines, STAGE, max_batch, options.max_waiting) as batcher:
            site = Site(bundle, batcher, window.backend, keys.token if keys else None, options.limits)
            async with _listening(site, options, keys) as listener:
                yield RunningSite(
                    listener.url, window.backend, batcher, listener, site.admission, site.refusals, keys
                )


@contextlib.asynccontextmanager
async def _listening(site: Site, options: ServeOptions, keys: SiteKeys | None) -> AsyncIterator[Listener]:
    runner = web.AppRunner(
        site.application(),
        access_log=None,
        logger=http_log(),
        handler_cancellation=True,  # a sender that disconnects frees its place in the queue
        shutdown_timeout=FAREWELL_S,
        lingering_time=LINGER_S,
        auto_decompress=False,  # the body reader does it, within the limits
    )
    await runner.setup()
    listener = _listener(runner, site, options, keys)
    try:
        await _listen(listener, options)
        yield listener
    finally:
        with anyio.CancelScope(shield=True):
            listener.close()
            try:
                await site.drain(options.grace_s)  # before cleanup, which drops what still arrives of a body
            finally:
                await runner.cleanup()  # cancels, after FAREWELL_S, what neither sends nor reads
                await listener.cut_off()
                await site.codec.close()


def _listener(runner: web.AppRunner, site: Site, options: ServeOptions, keys: SiteKeys | None) -> Listener:
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    tls = Tls(keys.context, options.handshake_s) if keys else None
    return Listener(runner.server, options.limits, 2 * site.body_limit + MIB, site.refusals.refused, tls)


async def _listen(listener: Listener, options: ServeOptions) -> None:
    try:
        await listener.listen(options.host, options.port)
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        where = f"{options.host}:{options.port}"
        raise InputError(
            f"cannot listen on {where} ({_reason(exc)}); choose another --port or --host"
        ) from exc


def _reason(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:  # asyncio's own text repeats the address
        return os.strerror(exc.errno)
    return getattr(exc, "strerror", None) or str(exc)


def _check_exposed(options: ServeOptions) -> None:
    if options.keys is None and not options.insecure and not is_loopback(options.host):
        raise InputError(
            f"{options.host} is not a loopback address and this site speaks plain HTTP: anyone on the "
            "way could read the tiles; give --keys with what `pedsam keys` made for this site, or give "
            "--insecure on a network you trust"
        )


async def serve(bundle: Bundle, options: ServeOptions, say: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets the lines for the terminal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_site(bundle, options) as site:
        say(f"site ready: {bundle.description}, {site.backend}")
        say(f"digest {bundle.site_digest}")
        if site.keys:
            say(f"certificate until {site.keys.until:%Y-%m-%d}; clients need a certificate and a token")
        say(f"listening on {site.url}")
        await stop.wait()
        say("stopping: requests under way are finished first")
    done = site.batcher.statistics
    say(f"stopped after {done.tiles} tiles in {done.batches} batches, {done.refused} refused")
