"""Run a site until it is told to stop.

It listens first and loads its engines then, which may take minutes: meanwhile it is live but not ready, and
requests are answered 503. Shutdown has phases: (1) the socket stops listening, readiness turns false and new
requests on open connections are answered 503, (2) requests under way finish, for at most `grace_s`, (3) tiles
that still wait or run are answered 503 and what is left is cancelled, (4) the engines close, after the call
they are in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from aiohttp import web

from server.app import HttpLog, Site
from server.batcher import Batcher
from server.housekeeping import housekeeping
from server.keys import counting_handshakes, load_keys, renew
from server.logs import facts
from server.state import SiteState
from server.versions import STAGE, loaded, numbered
from stages.bundle import Bundle
from stages.engine import Engine, make_engine
from stages.errors import InputError
from stages.network import is_loopback

log = logging.getLogger("pedsam.site")

BACKLOG = 128  # connections the kernel holds until they are accepted, aiohttp's own number
FAREWELL_S = 1.0  # after the grace of a shutdown: time to send "this site is stopping"


@dataclass(frozen=True)
class ServeOptions:
    """`port` 0 takes a free one. `max_batch` None leaves it to the engine, `threads` None to the library.

    `keys` is the site's folder from `pedsam keys`: with it the site speaks TLS to clients that have a
    certificate and a token, else plain HTTP to anyone. Who has not finished the TLS handshake after
    `handshake_s` is hung up on.
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


@dataclass(frozen=True)
class RunningSite:
    """A site that answers at `url`."""

    url: str
    state: SiteState

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
    bound and for keys that cannot be used, BundleError or EngineError when a window stage cannot be opened or
    does not reproduce its bundle's probe.
    """
    _check_exposed(options)
    listed = [bundles] if isinstance(bundles, Bundle) else bundles
    state = SiteState(numbered(listed), load_keys(options.keys) if options.keys else None)
    door = _Door(Site(state), options)

    def make_window(bundle: Bundle) -> Engine:
        return make_engine(bundle, STAGE, options.backend, options.threads)

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(housekeeping(state))
        stack.push_async_callback(door.close)  # when loading fails
        url = await door.open()
        log.info("%s is live, loading %d engines", url, len(listed), extra=facts("listening", url=url))
        loading = loaded(state.bundles, make or make_window, options.max_batch, options.max_waiting)
        versions = await stack.enter_async_context(loading)
        stack.push_async_callback(door.close)  # before the engines; the other call does nothing then
        state.open(versions)
        yield RunningSite(url, state)


class _Door:
    """The socket of a site and its HTTP server."""

    def __init__(self, site: Site, options: ServeOptions) -> None:
        self._site = site
        self._options = options
        self._listener: asyncio.Server | None = None
        self._runner: web.AppRunner | None = web.AppRunner(
            site.application(),
            access_log=None,
            logger=HttpLog(site.state.refusals),
            handler_cancellation=True,  # a sender that disconnects frees its place in the queue
            shutdown_timeout=FAREWELL_S,
        )

    async def open(self) -> str:
        """Listen, and say at what URL. Raises InputError when the address cannot be bound."""
        if self._runner is None:
            raise RuntimeError("this door was closed")
        await self._runner.setup()
        self._listener = await _listen(self._runner, self._options, self._site.state)
        return _url(self._listener.sockets[0], "https" if self._site.state.keys else "http")

    async def close(self) -> None:
        """The first three phases of a shutdown, whoever cancels meanwhile; closing again does nothing."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        with anyio.CancelScope(shield=True):
            if self._listener is not None:
                self._listener.close()
            try:
                late = await self._site.drain(self._options.grace_s)  # cleanup drops what arrives of a body
                log.info("requests are done, %d given up", late, extra=facts("drained", given_up=late))
            finally:
                await runner.cleanup()  # cuts off, after FAREWELL_S, who neither sends nor reads


async def _listen(runner: web.AppRunner, options: ServeOptions, state: SiteState) -> asyncio.Server:
    """As web.TCPSite listens, which cannot bound the time of a TLS handshake."""
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    try:
        return await asyncio.get_running_loop().create_server(
            runner.server,
            options.host,
            options.port,
            backlog=BACKLOG,
            ssl=counting_handshakes(state.keys.context, state.refusals) if state.keys else None,
            ssl_handshake_timeout=options.handshake_s if state.keys else None,
        )
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        where = f"{options.host}:{options.port}"
        raise InputError(
            f"cannot listen on {where} ({_reason(exc)}); choose another --port or --host"
        ) from exc


def _reason(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:  # asyncio's own text repeats the address
        return os.strerror(exc.errno)
    return getattr(exc, "strerror", None) or str(exc)


def _url(listener: socket.socket, scheme: str) -> str:
    """Where the site answers: the address bound first, as a name can stand for several."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _check_exposed(options: ServeOptions) -> None:
    if options.keys is None and not options.insecure and not is_loopback(options.host):
        raise InputError(
            f"{options.host} is not a loopback address and this site speaks plain HTTP: anyone on the "
            "way could read the tiles; give --keys with what `pedsam keys` made for this site, or give "
            "--insecure on a network you trust"
        )


Say = Callable[[str], None]


async def serve(bundles: Sequence[Bundle], options: ServeOptions, say: Say = print) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP renews the keys. `say` gets the lines for the terminal."""
    loop = asyncio.get_running_loop()
    site: RunningSite | None = None
    with anyio.CancelScope() as running:

        def stop() -> None:
            _tell(say, "stopping", "stopping: requests under way are finished first")
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, lambda: None)  # it is under way
            running.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        async with running_site(bundles, options) as site:
            if options.keys:
                loop.add_signal_handler(signal.SIGHUP, _renew_keys, site.state)
            _introduce(site, say)
            await anyio.sleep_forever()
    _say_goodbye(site, say)


def _tell(say: Say, event: str, sentence: str, **values: str | int) -> None:
    """For the terminal and for the log."""
    say(sentence)
    log.info("%s", sentence, extra=facts(event, **values))


def _introduce(site: RunningSite, say: Say) -> None:
    for version in site.state.versions.values():
        say(f"site ready: {version.description}")
        say(f"digest {version.bundle.site_digest}")
    if keys := site.state.keys:
        say(f"certificate until {keys.until:%Y-%m-%d}; clients need a certificate and a token")
    _tell(say, "ready", f"listening on {site.url}", url=site.url)


def _say_goodbye(site: RunningSite | None, say: Say) -> None:
    done = [version.statistics for version in site.state.versions.values()] if site else []
    counts = {
        "tiles": sum(each.tiles for each in done),
        "batches": sum(each.batches for each in done),
        "refused": sum(each.refused for each in done),
    }
    sentence = "stopped after {tiles} tiles in {batches} batches, {refused} refused".format(**counts)
    _tell(say, "stopped", sentence, **counts)


def _renew_keys(state: SiteState) -> None:
    """Keys that cannot be used are told, and those in use stay."""
    if state.keys is None:
        raise RuntimeError("this site has no keys")
    try:
        state.keys = renew(state.keys)
    except InputError as exc:
        log.error("the keys in use stay: %s", exc, extra=facts("keys_not_renewed"))
        return
    until = f"{state.keys.until:%Y-%m-%d}"
    log.info("keys renewed, certificate until %s", until, extra=facts("keys_renewed", until=until))
