"""A line carries what it should, on a clock of its own; over sockets nothing is lost, and ends are told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from benchmarks.links.line import Line, Link
from benchmarks.links.shaper import Shaper
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time

MB = 1 << 20
DELAY_S = 0.04


class Arrivals:
    """A connection's far end: (moment, bytes) of every write. `held` stops it from reading on."""

    def __init__(self, held: asyncio.Event | None = None) -> None:
        self.writes: list[tuple[float, bytes]] = []
        self.ended_s = 0.0
        self._held = held

    def write(self, data: bytes) -> None:
        self.writes.append((asyncio.get_running_loop().time(), data))

    async def drain(self) -> None:
        if self._held is not None:
            await self._held.wait()

    def write_eof(self) -> None:
        self.ended_s = asyncio.get_running_loop().time()

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.writes)


def stream(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


def random_bytes(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


async def carried(line: Line, *sizes: int) -> list[Arrivals]:
    """One connection a size, all at once."""
    ends = [Arrivals() for _ in sizes]
    started = [line.carry(stream(bytes(size)), end) for size, end in zip(sizes, ends, strict=True)]
    await asyncio.gather(*started)
    return ends


@pytest.mark.parametrize("mbit", [4.0, 20.0, 100.0, 1000.0])
def test_bytes_take_what_the_rate_says_and_the_way_besides(mbit: float) -> None:
    (end,) = run_in_virtual_time(carried(Line(mbit, DELAY_S), MB))
    assert end.ended_s == pytest.approx(DELAY_S + 8 * MB / (mbit * 1e6), rel=0.01)
    assert end.writes[0][0] == pytest.approx(DELAY_S, abs=0.01)


def test_the_rate_is_the_same_from_beginning_to_end() -> None:
    (end,) = run_in_virtual_time(carried(Line(20.0, DELAY_S), MB))
    size = 0
    for moment_s, data in end.writes:
        size += len(data)
        assert moment_s == pytest.approx(DELAY_S + 8 * size / 20e6, abs=1e-6)


def test_connections_share_one_line_evenly() -> None:
    line = Line(20.0, 0.0)
    ends = run_in_virtual_time(carried(line, MB, MB, MB))
    took_s = 3 * 8 * MB / 20e6
    assert [end.ended_s for end in ends] == pytest.approx([took_s] * 3, rel=0.04)  # the first fills the queue
    assert line.bytes_accepted == 3 * MB


def test_an_idle_line_saves_nothing_up() -> None:
    async def twice() -> tuple[float, float]:
        line = Line(20.0, DELAY_S)
        await carried(line, MB)
        await asyncio.sleep(60)
        began_s = asyncio.get_running_loop().time()
        (end,) = await carried(line, MB)
        return began_s, end.ended_s

    began_s, ended_s = run_in_virtual_time(twice())
    assert ended_s - began_s == pytest.approx(DELAY_S + 8 * MB / 20e6, rel=0.01)


def test_a_machine_that_is_late_does_not_slow_the_line() -> None:
    async def stalled() -> tuple[float, float]:
        loop, line = asyncio.get_running_loop(), Line(20.0, DELAY_S)
        assert isinstance(loop, VirtualLoop)
        for moment_s in (0.1, 0.2, 0.3):
            loop.call_at(moment_s, loop.stall, 0.08)
        (end,) = await carried(line, MB)
        (later,) = await carried(line, MB)
        return end.ended_s, later.ended_s - end.ended_s

    ended_s, took_s = run_in_virtual_time(stalled())
    alone_s = DELAY_S + 8 * MB / 20e6
    assert ended_s == pytest.approx(alone_s, rel=0.01)
    assert took_s == pytest.approx(alone_s, rel=0.01)  # and nothing is saved up for what comes after it


def test_a_few_bytes_wait_no_longer_than_the_queue() -> None:
    """However much others have to send."""

    async def beside() -> float:
        line = Line(20.0, DELAY_S)
        large = asyncio.create_task(carried(line, 4 * MB))
        await asyncio.sleep(0.5)
        (end,) = await carried(line, 100)
        large.cancel()
        return end.ended_s - 0.5

    assert 0.02 < run_in_virtual_time(beside()) - DELAY_S < 0.03


def test_no_more_is_taken_than_was_sent_and_the_queue_holds() -> None:
    async def after(moment_s: float) -> tuple[int, int]:
        line = Line(20.0, 10.0)
        sending = asyncio.create_task(carried(line, *[MB] * 20))
        await asyncio.sleep(moment_s)
        sending.cancel()
        return line.bytes_accepted, line.chunk_bytes

    taken, chunk = run_in_virtual_time(after(0.5))
    assert 0.5 * 20e6 / 8 <= taken <= 0.52 * 20e6 / 8 + chunk


def test_an_end_that_does_not_read_stops_its_own_connection_alone() -> None:
    async def held_up() -> tuple[int, float, bytes]:
        line = Line(20.0, 0.0)
        held, other, data = asyncio.Event(), Arrivals(), random_bytes(8 * MB)
        slow = Arrivals(held)
        carrying = asyncio.create_task(line.carry(stream(data), slow))
        await asyncio.sleep(10)
        taken, began_s = line.bytes_accepted, asyncio.get_running_loop().time()
        await line.carry(stream(bytes(MB)), other)
        other_s = asyncio.get_running_loop().time() - began_s
        held.set()
        await carrying
        assert slow.data == data
        return taken, other_s, data

    taken, other_s, data = run_in_virtual_time(held_up())
    assert MB < taken < len(data) * 0.7
    assert other_s == pytest.approx(8 * MB / 20e6, rel=0.01)


def test_what_goes_wrong_at_one_end_ends_the_connection() -> None:
    class Gone(Arrivals):
        def write(self, data: bytes) -> None:
            raise ConnectionResetError

    async def to_nobody() -> int:
        silent = asyncio.StreamReader()
        silent.feed_data(b"x")
        with pytest.raises(ConnectionResetError):
            await Line(20.0, DELAY_S).carry(silent, Gone())
        return len(asyncio.all_tasks())

    assert run_in_virtual_time(to_nobody()) == 1


# Real sockets: what a busy machine cannot change.

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def behind(shaper: Shaper, serve: Serve) -> AsyncIterator[int]:
    """A port that reaches a server over the line."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with shaper.relay("127.0.0.1", server.sockets[0].getsockname()[1]) as port:
        yield port
    server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.close()


@pytest.mark.anyio
async def test_bytes_get_there_and_back_no_sooner_than_the_line_allows() -> None:
    data = random_bytes(MB)
    shaper = Shaper(Link(400, 20, 0.3))
    async with behind(shaper, echo) as port:
        began_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        assert await reader.read(-1) == data + b"end"
        took_s = time.perf_counter() - began_s
        writer.close()
    assert took_s >= 0.3 + 0.3 + 8 * MB / 20e6 - 0.001  # a handshake, there and back, the slower way
    assert (shaper.up.bytes_accepted, shaper.down.bytes_accepted) == (len(data), len(data) + 3)


@pytest.mark.anyio
async def test_an_end_that_breaks_off_is_told() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with behind(Shaper(Link(100, 100, 0.0)), hang_up) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            assert await reader.read(-1) == b""
        writer.close()


@pytest.mark.anyio
async def test_a_site_that_is_not_there_is_a_connection_that_ends() -> None:
    async with behind(Shaper(Link(100, 100, 0.0)), echo) as gone:
        pass
    async with Shaper(Link(100, 100, 0.0)).relay("127.0.0.1", gone) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(-1) == b""
        writer.close()


@pytest.mark.anyio
async def test_nothing_is_left_of_connections_when_the_relay_ends() -> None:
    before = asyncio.all_tasks()
    async with behind(Shaper(Link(100, 100, 0.0)), echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
    with contextlib.suppress(ConnectionError):
        assert await reader.read(-1) in (b"", b"end")
    writer.close()
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if "relay" in repr(task)} == set()


@pytest.mark.anyio
async def test_as_a_command_it_prints_where_a_site_is_reached() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    site = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    shaped = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.links.shaper", "--up", "100", "--down", "100", "--round-trip-ms",
        "1", site, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert shaped.stdout is not None
    found = re.fullmatch(
        rf"{site} is reached at 127.0.0.1:(\d+)\n", (await shaped.stdout.readline()).decode()
    )
    assert found is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    writer.close()
    shaped.terminate()
    await shaped.wait()
    server.close()
