"""`pedsam serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from server.limit_options import limit_options
from server.limits import Limits
from server.serve import ServeOptions, serve
from stages.bundle import Bundle, shipped_bundle
from stages.engine import BACKENDS


@click.command("serve")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle holding the window stage  [default: the mini model that comes with pedsam]",
)
@click.option("--host", default=ServeOptions.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=ServeOptions.port,
    show_default=True,
    help="0: any free one.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine  [default: one a core]")
@click.option(
    "--max-batch", type=click.IntRange(1), help="Tiles an engine call  [default: the engine's choice]"
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=ServeOptions.max_waiting,
    show_default=True,
    help="Tiles that may wait; more are answered 503.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=ServeOptions.grace_s,
    show_default=True,
    help="Seconds for requests under way at shutdown.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    help="This site's folder from `pedsam keys`: TLS, client certificates and a token.",
)
@click.option("--insecure", is_flag=True, help="Allow plain HTTP on an address other than loopback.")
@limit_options
def command(
    bundle: Path | None,
    host: str,
    port: int,
    backend: str,
    threads: int | None,
    max_batch: int | None,
    queue: int,
    grace: float,
    keys: Path | None,
    insecure: bool,
    **limits: Any,
) -> None:
    """Run one site: serve the window stage of BUNDLE over the Open Inference Protocol v2."""
    options = ServeOptions(
        host, port, backend, threads, max_batch, queue, grace, insecure, keys, limits=Limits(**limits)
    )
    asyncio.run(serve(Bundle.load(bundle or shipped_bundle()), options, click.echo))
