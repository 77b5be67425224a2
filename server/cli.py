"""`pedsam serve`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from server.limit_options import limit_options
from server.limits import Limits
from server.logs import FORMS, logging_to
from server.serve import ServeOptions, serve
from stages.allocator import give_memory_back
from stages.bundle import Bundle, shipped_bundle
from stages.errors import EngineError
from stages.options import (
    BACKEND,
    IDLE_THREADS,
    PATH,
    THREADS,
    Count,
    Number,
    bundle_option,
    warn_of_idle_options,
)

_IDLE_BESIDE = {**IDLE_THREADS, "build": ("backend", ("onnxruntime", "onnxruntime-cuda", "onnxruntime-cpu"))}
BUNDLES = bundle_option(
    "Bundle holding the window stage; give it again for newer versions, the last is served by default",
    multiple=True,
)


@click.command("serve", params=[BUNDLES, BACKEND, THREADS])
@click.option("--host", default=ServeOptions.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=ServeOptions.port,
    show_default=True,
    help="0: any free one.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    help="Port of 127.0.0.1 that answers /v2/health/live and ready in plain HTTP, also with --keys.",
)
@click.option("--build", is_flag=True, help="First build the TensorRT engine, unless it is there and fits.")
@click.option("--max-batch", type=Count(1), help="Tiles an engine call  [default: the engine's choice]")
@click.option(
    "--queue",
    type=Count(1),
    default=ServeOptions.max_waiting,
    show_default=True,
    help="Tiles of a version that may wait; more are answered 503.",
)
@click.option(
    "--grace",
    type=Number(0),
    default=ServeOptions.grace_s,
    show_default=True,
    help="Seconds for requests under way at shutdown.",
)
@click.option(
    "--keys",
    type=PATH,
    help="This site's folder from `pedsam keys`: TLS, client certificates and a token.",
)
@click.option("--insecure", is_flag=True, help="Allow plain HTTP on an address other than loopback.")
@limit_options
@click.option(
    "--log",
    "form",
    type=click.Choice(FORMS),
    help="Log on standard error: a JSON object a line, or warnings as text  [default: text on a terminal]",
)
def command(
    bundle: tuple[Path, ...],
    host: str,
    port: int,
    health_port: int | None,
    backend: str,
    build: bool,
    threads: int | None,
    max_batch: int | None,
    queue: int,
    grace: float,
    keys: Path | None,
    insecure: bool,
    form: str | None,
    **limits: Any,
) -> None:
    """Run one site: serve the window stage of a bundle over the Open Inference Protocol v2.

    Several bundles are versions 1, 2, ... of one model. An edge finds the version of its own bundle itself.
    """
    give_memory_back()
    warn_of_idle_options({}, _IDLE_BESIDE)
    options = ServeOptions(
        host, port, backend, threads, max_batch, queue, grace, insecure, keys, Limits(**limits), health_port
    )
    loaded = [Bundle.load(path) for path in bundle or [shipped_bundle()]]
    for each in loaded if build else ():
        build_window(each.path)
    with logging_to(sys.stderr, form):
        asyncio.run(serve(loaded, options, click.echo))


def build_window(bundle: Path) -> None:
    """`pedsam build --for site` in a process of its own, its memory given back before the site starts."""
    line = [sys.executable, "-m", "pedsam", "build", "--bundle", str(bundle), "--for", "site"]
    if subprocess.run(line, check=False).returncode:
        raise EngineError(
            "the engine was not built, so this site does not start; without --build it runs without TensorRT"
        )
