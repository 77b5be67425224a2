"""All sites of an edge behind one line.

    python -m benchmarks.links.shaper --up 20 --down 100 --round-trip-ms 20 127.0.0.1:8001 127.0.0.1:8002

prints for each site the address at which the edge reaches it over the line, and runs until it is stopped. At
SIGUSR1 it prints how many bytes it has taken, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import click

from benchmarks.links.line import Line, Link, all_of


class Shaper:
    """`up` and `down` count what went over the line, HTTP's own bytes included."""

    def __init__(self, link: Link) -> None:
        self.up = Line(link.up_mbit, link.round_trip_s / 2)
        self.down = Line(link.down_mbit, link.round_trip_s / 2)
        self._round_trip_s = link.round_trip_s
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def relay(self, host: str, port: int) -> AsyncIterator[int]:
        """A port of this machine whose connections reach `host` over the line, while the block runs."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer, host, port))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            with contextlib.suppress(asyncio.CancelledError):  # nobody waits for a connection's task
                await task

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in (connections := list(self._connections)):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        far_writer = None
        try:
            await asyncio.sleep(self._round_trip_s)  # of TCP's handshake, which the near end did at once
            far_reader, far_writer = await asyncio.open_connection(host, port)
            await all_of(self.up.carry(reader, far_writer), self.down.carry(far_reader, writer))
        except OSError:
            pass  # either end is gone; the other is told by the abort
        finally:
            writer.transport.abort()
            if far_writer is not None:
                far_writer.transport.abort()


@click.command()
@click.option("--up", type=click.FloatRange(0, min_open=True), required=True, help="Mbit/s.")
@click.option("--down", type=click.FloatRange(0, min_open=True), required=True, help="Mbit/s.")
@click.option("--round-trip-ms", type=click.FloatRange(0), required=True)
@click.argument("sites", nargs=-1, required=True, metavar="HOST:PORT...")
def main(up: float, down: float, round_trip_ms: float, sites: tuple[str, ...]) -> None:
    """Put sites behind one line until stopped."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(Shaper(Link(up, down, round_trip_ms / 1e3)), sites))


async def _run(shaper: Shaper, sites: tuple[str, ...]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        reached = []
        for site in sites:
            host, _, port = site.rpartition(":")
            near = await stack.enter_async_context(shaper.relay(host, int(port)))
            reached.append(f"{site} is reached at 127.0.0.1:{near}")
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell, shaper)
        click.echo("\n".join(reached))
        await asyncio.Event().wait()


def _tell(shaper: Shaper) -> None:
    click.echo(json.dumps({"up": shaper.up.bytes_accepted, "down": shaper.down.bytes_accepted}))


if __name__ == "__main__":
    main()
