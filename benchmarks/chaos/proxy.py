"""What stands between the edge and the sites of a run: it counts what each operator is sent, and does the
faults of answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.chaos.distortions import distort, with_digest
from benchmarks.chaos.faults import AT_START, Fault
from benchmarks.chaos.film import Film
from benchmarks.chaos.messages import Message, read_message, read_tensors

_MOST_HEAD = 1 << 20  # bytes of a message's head
_DRIP_BYTES = 64
_DRIP_S = (0.01, 1.0)  # between two drips: an answer that is in time, and one that is not


class _Cut(Exception):
    """The connection ends here."""


@dataclass
class Traffic:
    """What the sites of a run were sent, by the requests' own bytes.

    `windows` are the window positions of the film that each operator was sent, by the number of the edge
    process that sent them; `tiles` counts tiles of the film by site. `changed` are windows of tiles that show
    a part of the film, but not as it is, and `misnamed` counts tiles that show another window than they say.
    What shows nothing of the film, such as a probe, is not counted. `done` counts faults that took place.
    """

    film: Film
    edge: int = 0
    windows: dict[tuple[int, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    tiles: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    changed: set[int] = field(default_factory=set)
    misnamed: int = 0
    connections: int = 0
    done: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def tiles_in_all(self) -> int:
        return sum(self.tiles.values())

    async def count(self, site: str, operator: str, edge: int, request: Message) -> int:
        """Count an infer request. Returns how many of its tiles are of the film."""
        _, arrays = read_tensors(request, "inputs")
        film = 0
        for tile, index in zip(arrays["tile"], arrays["index"].ravel().tolist(), strict=True):
            shown = self.film.shown(tile, index)
            if shown is None and self.film.resembles(tile):
                self.changed.add(index)
                shown = index
            if shown is not None:
                film += 1
                self.misnamed += shown != index
                self.windows[edge, operator].add(shown)
        async with self._changed:
            self.tiles[site] += film
            self._changed.notify_all()
        return film

    async def connected(self) -> None:
        async with self._changed:
            self.connections += 1
            self._changed.notify_all()

    async def reached(self, site: str, tiles: int) -> None:
        """Wait until the edge has connected and so many tiles of the film were sent to a site, or to all
        where it is empty."""

        def enough() -> bool:
            sent = self.tiles[site] if site else self.tiles_in_all
            return self.connections > 0 and sent >= tiles

        async with self._changed:
            await self._changed.wait_for(enough)


class SiteProxy:
    """One site as the edge sees it. `upstream` gives the real site's port, None while it is down."""

    def __init__(
        self,
        name: str,
        operator: str,
        traffic: Traffic,
        upstream: Callable[[], int | None],
        faults: Sequence[Fault],
        seed: int,
    ) -> None:
        self.name = name
        self.port = 0
        self._operator = operator
        self._traffic = traffic
        self._upstream = upstream
        self._faults = [fault for fault in faults if fault.site == name and fault.distorts]
        self._rng = np.random.default_rng(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._earlier: tuple[bytes, Message] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_MOST_HEAD)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield
        finally:
            server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served outside a task")
        self._tasks.add(task)
        try:
            await self._traffic.connected()
            await self._serve(reader, writer, self._traffic.edge)
        except (_Cut, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # of those that cancel a task here none waits for it to say so
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edge: int) -> None:
        port = self._upstream()
        if port is None:
            raise _Cut
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=_MOST_HEAD)
        try:
            while (request := await read_message(reader)) is not None:
                fault = await self._fault_of(request, edge)
                if fault is not None:
                    self._traffic.done[fault.kind] += 1
                await self._before(fault)
                far_writer.write(request.encode())
                answer = await read_message(far_reader)
                if answer is None:
                    raise _Cut
                await self._answer(writer, answer, fault, request)
        finally:
            far_writer.transport.abort()

    async def _fault_of(self, request: Message, edge: int) -> Fault | None:
        """Count the request; the fault that its answer gets."""
        if request.path.endswith("/config"):
            return next((fault for fault in self._faults if fault.kind == "other_digest"), None)
        if not request.path.endswith("/infer"):
            return None
        before = self._traffic.tiles[self.name]
        film = await self._traffic.count(self.name, self._operator, edge, request)
        for fault in self._faults:
            begun = fault.after == AT_START or (film and fault.after <= before)
            if fault.kind != "other_digest" and begun and before < fault.after + fault.count:
                return fault
        return None

    async def _before(self, fault: Fault | None) -> None:
        """The faults in which the site never gets the request."""
        if fault is not None and fault.kind == "stall":
            await asyncio.Event().wait()  # until the run has ended
        if fault is not None and fault.kind == "cut_request":
            raise _Cut

    async def _answer(
        self, writer: asyncio.StreamWriter, answer: Message, fault: Fault | None, request: Message
    ) -> None:
        if fault is None:
            self._remember(request, answer)
            writer.write(answer.encode())
        elif fault.kind == "cut_answer":
            whole = answer.encode()
            writer.write(whole[: int(fault.value * len(whole))])
            await writer.drain()
            raise _Cut
        elif fault.kind == "drip":
            await _drip(writer, answer.encode(), _DRIP_S[fault.value < 0.5])
        elif fault.kind == "other_digest":
            writer.write(with_digest(answer).encode())
        else:
            writer.write(self._distorted(fault, answer, request).encode())
        await writer.drain()

    def _distorted(self, fault: Fault, answer: Message, request: Message) -> Message:
        if fault.kind == "another_tile":
            self._earlier = self._earlier or (request.body, answer)
            body, earlier = self._earlier
            return earlier if body != request.body else answer
        if not answer.start.startswith(b"HTTP/1.1 200"):
            return answer
        return distort(fault, answer, self._rng)

    def _remember(self, request: Message, answer: Message) -> None:
        """An answer to another tile of the film."""
        if request.path.endswith("/infer") and self._traffic.tiles[self.name]:
            self._earlier = (request.body, answer)


async def _drip(writer: asyncio.StreamWriter, data: bytes, pause_s: float) -> None:
    for at in range(0, len(data), _DRIP_BYTES):
        writer.write(data[at : at + _DRIP_BYTES])
        await writer.drain()
        await asyncio.sleep(pause_s)
