"""The edge's own client and the stock client, with several requests under way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import anyio
import tritonclient.http as stock
import tritonclient.http.aio as stock_aio

from benchmarks.cpu_time import CpuTimes, cpu_times
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
    """So many tiles or a few more, from one answer to another: not among the first, and as many requests as
    ever are under way at the last."""
    async with CLIENTS[client](server, work, probed) as (ask, most):
        return await counted(ask, most, tiles, server.pids)


async def counted(ask: Ask, most: int, tiles: int, pids: Sequence[int]) -> Turn:
    """Ask for `most` tiles a request, IN_FLIGHT requests at a time, and count once each has been answered."""
    requests, answers = -(-tiles // most), 0
    marks: list[CpuTimes] = []  # before the first request that counts, and after the last

    async def keep_asking() -> None:
        nonlocal answers
        while len(marks) < 2:
            await ask(most)
            answers += 1
            if answers in (IN_FLIGHT, IN_FLIGHT + requests):
                marks.append(cpu_times(pids))  # of many threads it takes longer than a request

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(keep_asking)
    began, ended = marks
    return Turn(requests * most, requests, ended.at_s - began.at_s, ended.total_since(began))
