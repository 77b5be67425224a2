"""Sites whose engines only take time, in a process of their own.

    python -m benchmarks.links.sites --bundle FOLDER --tile-ms 2 --sites 3

prints the address of each once it serves, and runs until it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

import click

from benchmarks.fixed_latency import FixedEngine
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.engines.engine import Engine


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--tile-ms", type=click.FloatRange(0), required=True)
@click.option("--sites", type=click.IntRange(1), required=True)
def main(bundle: Path, tile_ms: float, sites: int) -> None:
    """Serve until stopped."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(Bundle.load(bundle), tile_ms / 1e3, sites))


async def _run(bundle: Bundle, tile_s: float, sites: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(sites):
            site = running_site(bundle, ServeOptions(port=0), partial(_engine, tile_s))
            click.echo((await stack.enter_async_context(site)).url.removeprefix("http://"))
        await asyncio.Event().wait()


def _engine(tile_s: float, bundle: Bundle) -> Engine:
    return FixedEngine(bundle, "window", tile_s)


if __name__ == "__main__":
    main()
