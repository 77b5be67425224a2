"""The edge's own client and the stock client, with several requests under way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

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
    """So many tiles or a few more, while as many requests as ever are under way: from one answer to another,
    neither among the first nor among the last."""
    async with CLIENTS[client](server, work, probed) as (ask, most):
        counted = Counted(server, IN_FLIGHT * most, tiles)

        async def keep_asking() -> None:
            while counted.turn is None:
                await ask(most)
                counted.answered(most)

        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.start_soon(keep_asking)
        assert counted.turn is not None
        return counted.turn


class Counted:
    """Counts answers once `first` tiles were answered, until `tiles` more are; then there is a `turn`."""

    def __init__(self, server: Server, first: int, tiles: int) -> None:
        self.turn: Turn | None = None
        self._server = server
        self._first, self._tiles = first, tiles
        self._answered = self._requests = self._before = 0
        self._began: CpuTimes | None = None

    def answered(self, tiles: int) -> None:
        self._answered += tiles
        self._requests += 1
        if self._began is None and self._answered >= self._first:
            self._before, self._requests = self._answered, 0
            self._began = cpu_times(self._server.pids)
        elif self._began is not None and self._answered >= self._before + self._tiles and self.turn is None:
            now = cpu_times(self._server.pids)
            seconds = now.at_s - self._began.at_s
            done = self._answered - self._before
            self.turn = Turn(done, self._requests, seconds, now.total_since(self._began))
