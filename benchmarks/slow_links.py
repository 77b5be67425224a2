"""Sites behind slow links, on one machine: network namespaces, veth pairs, `tc tbf`, and a relay that delays.

A kernel may lack netem, so delay comes from a relay of our own between the edge and the link. It forwards TCP
bytes after a fixed time; the slow start of TCP over a long way is not imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

from stages.errors import InputError

PORT = 8001
_SHORTEST_TBF_S = 0.005  # of bytes that may go at once
_CHUNK = 1 << 14
_QUEUED = 1 << 10  # chunks on the way


def check_can_make_links() -> None:
    """Raise InputError where namespaces cannot be made."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        what = f"{' and '.join(missing)} (Debian: apt-get install iproute2)" if missing else "root"
        raise InputError(
            f"slow links need {what}: network namespaces cannot be made without; leave --rows link out"
        )


@contextlib.contextmanager
def slow_link(number: int, mbit: float) -> Iterator[tuple[list[str], str]]:
    """A namespace reached at `mbit` each way, in the block: how to start a command in it, its address."""
    space, here, there = f"pedsam{number}", f"pedsam-e{number}", f"pedsam-s{number}"
    address = f"10.213.{number}"
    inside = ["ip", "netns", "exec", space]
    burst = max(4096, round(mbit * 1e6 / 8 * _SHORTEST_TBF_S))
    shape = ["root", "tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", "1000ms"]
    _do("ip", "netns", "add", space)
    try:
        _do("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        _do("ip", "addr", "add", f"{address}.1/24", "dev", here)
        _do("ip", "link", "set", here, "up")
        _do(*inside, "ip", "addr", "add", f"{address}.2/24", "dev", there)
        _do(*inside, "ip", "link", "set", there, "up")
        _do(*inside, "ip", "link", "set", "lo", "up")
        _do("tc", "qdisc", "add", "dev", here, *shape)
        _do(*inside, "tc", "qdisc", "add", "dev", there, *shape)
        yield inside, f"{address}.2"
    finally:
        _do("ip", "netns", "del", space)  # the pair goes with it


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed: {done.stderr.strip()}")


@contextlib.asynccontextmanager
async def relay(host: str, port: int, delay_s: float) -> AsyncIterator[int]:
    """A port on loopback whose connections reach `host`, every byte `delay_s` later each way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_delayed(reader, far_writer, delay_s), _delayed(far_reader, writer, delay_s))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Copy one direction until its end; a writer that is slow holds up the reader."""
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            while (chunk := await chunks.get())[1]:
                await asyncio.sleep(max(0.0, chunk[0] - time.perf_counter()))
                writer.write(chunk[1])
                await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    data = b"."
    with contextlib.suppress(ConnectionError):
        while data:
            data = await reader.read(_CHUNK)
            await chunks.put((time.perf_counter() + delay_s, data))
    await sending


async def calibrate(delay_s: float, rounds: int = 20) -> float:
    """The seconds that one byte there and back really takes more through the relay: the median."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    async with relay("127.0.0.1", port, delay_s) as delayed:
        more = await _round_trip_s(delayed, rounds) - await _round_trip_s(port, rounds)
    server.close()
    return more


async def _round_trip_s(port: int, rounds: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        took.append(time.perf_counter() - started)
    writer.close()
    return sorted(took)[rounds // 2]
