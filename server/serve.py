"""Run a site until it is told to stop.

Shutdown has phases: (1) readiness turns false and the socket stops listening, (2) requests under way finish,
for at most `grace_s`, (3) what is left is cancelled, (4) the engine closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
from aiohttp import web

from server.app import Site
from server.batcher import Batcher
from stages.bundle import Bundle
from stages.engine import EngineThread, make_engine
from stages.errors import InputError

STAGE = "window"


@dataclass(frozen=True)
class ServeOptions:
    """`port` 0 takes a free one. `max_batch` None leaves it to the engine, `threads` None to the library."""

    host: str = "127.0.0.1"
    port: int = 8001
    backend: str = "auto"
    threads: int | None = None
    max_batch: int | None = None
    max_waiting: int = 100
    grace_s: float = 10.0
    insecure: bool = False


@dataclass(frozen=True)
class RunningSite:
    """A site that answers at `url`."""

    url: str
    backend: str
    batcher: Batcher


@contextlib.asynccontextmanager
async def running_site(bundle: Bundle, options: ServeOptions) -> AsyncIterator[RunningSite]:
    """A site serving on its socket for as long as the block runs; leaving the block shuts it down in phases.

    Raises InputError for an address that may not or cannot be bound, BundleError or EngineError when the
    window stage cannot be opened.
    """
    _check_exposed(options)
    engines = EngineThread({STAGE: lambda: make_engine(bundle, STAGE, options.backend, options.threads)})
    async with engines, anyio.create_task_group() as tasks:
        engine = engines.engine(STAGE)
        max_batch = options.max_batch or engine.preferred_batch
        batcher = Batcher(engines, STAGE, max_batch, options.max_waiting)
        site = Site(bundle, batcher, engine.backend)
        tasks.start_soon(batcher.run)
        try:
            async with _listening(site, options) as url:
                yield RunningSite(url, engine.backend, batcher)
        finally:
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _listening(site: Site, options: ServeOptions) -> AsyncIterator[str]:
    runner = web.AppRunner(site.application(), access_log=None, shutdown_timeout=options.grace_s)
    await runner.setup()
    try:
        listener = web.TCPSite(runner, options.host, options.port)
        try:
            await listener.start()
        except OSError as exc:
            raise InputError(
                f"cannot listen on {options.host}:{options.port} ({exc.strerror}); choose another --port or --host"
            ) from exc
        port = runner.addresses[0][1]
        yield f"http://{options.host}:{port}"
    finally:
        site.ready = False
        with anyio.CancelScope(shield=True):
            await runner.cleanup()  # stops listening, waits for requests up to shutdown_timeout, then cancels


def _check_exposed(options: ServeOptions) -> None:
    if not options.insecure and not is_loopback(options.host):
        raise InputError(
            f"{options.host} is not a loopback address and this site speaks plain HTTP: anyone on the way could "
            "read the tiles; bind 127.0.0.1 behind a TLS proxy, or give --insecure on a network you trust"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(bundle: Bundle, options: ServeOptions, say: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets the lines for the terminal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_site(bundle, options) as site:
        say(f"site ready: {bundle.description}, {site.backend}")
        say(f"digest {bundle.site_digest}")
        say(f"listening on {site.url}")
        await stop.wait()
        say("stopping: requests under way are finished first")
    done = site.batcher.statistics
    say(f"stopped after {done.tiles} tiles in {done.batches} batches, {done.refused} refused")
