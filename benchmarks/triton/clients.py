"""The edge's own client and the stock client, with several requests under way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import tritonclient.http as stock
import tritonclient.http.aio as stock_aio

from benchmarks.cpu_time import cpu_times
from benchmarks.triton.report import Turn
from benchmarks.triton.servers import Server, Work
from runtime.sites.client import SiteClient, Timeouts, choose_wire
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import ExposureLedger
from runtime.sites.sendable import SendableTile
from stages import wire

IN_FLIGHT = 8
PATIENT = Timeouts(tile_s=120.0)  # this counts tiles, and a late one is no fault here

Ask = Callable[[int], Awaitable[None]]  # of so many tiles in one request


@contextlib.asynccontextmanager
async def edge_client(server: Server, work: Work, probed: bool) -> AsyncIterator[tuple[Ask, int]]:
    """The edge's own client: what asks for tiles, and how many share a request.

    What is `probed` must reproduce the bundle's probe, which an engine that does nothing cannot.
    """
    config = SiteConfig("a", "alpha", server.url)
    ledger = ExposureLedger.open(None, {"a": "alpha"}, {"alpha": work.bundle.geometry.windows})
    async with SiteClient(config, work.bundle, choose_wire(work.bundle, None), PATIENT) as client:
        if probed:
            await client.connect(work.bundle.probe())
        else:
            await client.check_digest()
        most = client.most_windows
        inputs, grants = work.inputs(most), ledger.grant_all(("a", window) for window in range(most))
        tiles = [
            SendableTile({name: array[row : row + 1] for name, array in inputs.items()}, frozenset())
            for row in range(most)
        ]
        granted = [grant for grant in grants if grant is not None]

        async def ask(count: int) -> None:
            await client.infer(granted[:count], tiles[:count])

        yield ask, most


@contextlib.asynccontextmanager
async def stock_client(server: Server, work: Work, probed: bool) -> AsyncIterator[tuple[Ask, int]]:
    """tritonclient's for asyncio, a tile a request."""
    specs = {spec.name: spec for spec in work.bundle.stage("window").inputs}
    asked = []
    for name, array in work.inputs(1).items():
        asked.append(stock.InferInput(name, list(array.shape), wire.OIP_NAME[specs[name].dtype]))
        asked[-1].set_data_from_numpy(array)
    outputs = [stock.InferRequestedOutput(name) for name in work.outputs]
    async with stock_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:

        async def ask(count: int) -> None:
            await client.infer(wire.MODEL, asked, outputs=outputs, headers={"Accept-Encoding": "identity"})

        yield ask, 1


CLIENTS = {"edge": edge_client, "tritonclient": stock_client}


async def one_turn(server: Server, client: str, work: Work, tiles: int, probed: bool) -> Turn:
    """So many tiles, from the first request to the last answer, after as many requests as are in flight."""
    async with CLIENTS[client](server, work, probed) as (ask, most):
        await in_flight(ask, most, IN_FLIGHT * most)
        before, began_s = cpu_times(server.pids), time.perf_counter()
        requests = await in_flight(ask, most, tiles)
        seconds = time.perf_counter() - began_s
        return Turn(tiles, requests, seconds, cpu_times(server.pids).total_since(before))


async def in_flight(ask: Ask, most: int, tiles: int) -> int:
    """Ask for so many tiles, `most` a request and IN_FLIGHT requests at a time; how many requests it took."""
    left, requests = tiles, 0

    async def keep_asking() -> None:
        nonlocal left, requests
        while left:
            count = min(most, left)
            left, requests = left - count, requests + 1
            await ask(count)

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(keep_asking)
    return requests
