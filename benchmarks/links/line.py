"""One line between an edge and all its sites: so many bits a second each way, so long a way.

What is sent waits in a queue that is bounded and drops nothing: who finds it full waits, as a sender whose
TCP window is closed. Only bytes of TCP streams count, not the 3 to 5 % of their packets' headers, and TCP's
slow start is not imitated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

_QUEUE_S = 0.02  # longer than a busy machine keeps the loop from running, or the line would stand idle
_CHUNK_S = 0.002  # half as long costs twice the processor time
_SMALLEST_CHUNK, _LARGEST_CHUNK = 4096, 1 << 16
_UNDER_WAY = 1 << 10  # chunks of one connection on the line: more than 0.5 s at any rate, 64 MiB at most


class Readable(Protocol):
    """The reading half of asyncio.StreamReader."""

    async def read(self, n: int, /) -> bytes: ...


class Writable(Protocol):
    """What is used of asyncio.StreamWriter."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...


@dataclass(frozen=True)
class Link:
    """Megabits a second up and down, seconds there and back."""

    up_mbit: float
    down_mbit: float
    round_trip_s: float

    def __str__(self) -> str:
        return f"{self.up_mbit:g}/{self.down_mbit:g} Mbit/s, {self.round_trip_s * 1e3:g} ms"


class Line:
    """One direction, shared by every connection that carries bytes over it.

    Bytes leave one after the other in the order in which they were accepted, and arrive `delay_s` after they
    left. All times are those of the running loop's clock. Where a busy machine wakes a sender too late, the
    line makes up for it, since a real one would have gone on; where there was nothing to send, it does not.
    """

    def __init__(self, mbit: float, delay_s: float) -> None:
        self.delay_s = delay_s
        self.bytes_accepted = 0
        self.bytes_per_s = mbit * 1e6 / 8
        self.chunk_bytes = round(min(max(_SMALLEST_CHUNK, self.bytes_per_s * _CHUNK_S), _LARGEST_CHUNK))
        self._free_s = 0.0  # when all that was accepted will have left
        self._woken_s = 0.0  # when the last one that waited went on
        self._turn = asyncio.Lock()  # of those that wait for room, in the order in which they came

    async def accept(self, size_bytes: int) -> float:
        """Wait for room in the queue. Returns when the last of these bytes arrives."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            has_room_s = self._free_s - _QUEUE_S
            if has_room_s > loop.time():
                await _sleep_until(has_room_s)
                self._woken_s = loop.time()
            kept_busy = self._free_s < self._woken_s and loop.time() < self._woken_s + _QUEUE_S
            started_s = self._free_s if kept_busy else max(self._free_s, loop.time())
            self._free_s = started_s + size_bytes / self.bytes_per_s
            self.bytes_accepted += size_bytes
            return self._free_s + self.delay_s

    async def carry(self, reader: Readable, writer: Writable) -> None:
        """Take one connection's bytes to its other end, until its end of file has got there too.

        A writer that is slow stops this connection's reader, and no other's.
        """
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        await all_of(self._take(reader, under_way), _deliver(under_way, writer))

    async def _take(self, reader: Readable, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"."
        while data:
            data = await reader.read(self.chunk_bytes)
            await under_way.put((await self.accept(len(data)), data))


async def _deliver(under_way: asyncio.Queue[tuple[float, bytes]], writer: Writable) -> None:
    while True:
        arrives_s, data = await under_way.get()
        await _sleep_until(arrives_s)
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()


async def _sleep_until(moment_s: float) -> None:
    left_s = moment_s - asyncio.get_running_loop().time()
    if left_s > 0:
        await asyncio.sleep(left_s)


async def all_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines side by side; the first error ends the others and is raised."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
