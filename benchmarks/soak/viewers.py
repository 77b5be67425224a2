"""Viewers of the page, most of them slow, in a process of their own until standard input ends.

    python -m benchmarks.soak.viewers ADDRESS

One shows every frame, one takes three seconds for each, one never says that it has shown one, and one stops
reading its connection, leaves and comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

import aiohttp

SLOW_S = 3.0
DEAF_S = 15.0
AGAIN_S = 1.0
_FRAME = aiohttp.WSMsgType.BINARY

Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[bool]"
Counts: TypeAlias = Counter[str]


async def watch(address: str) -> Counts:
    """Frames that viewers of each kind got, and how often the deaf one came."""
    counts: Counts = Counter()
    kinds = (_quick, _slow, _silent, _deaf)
    viewing = [asyncio.create_task(_again(kind, address, counts)) for kind in kinds]
    await asyncio.to_thread(sys.stdin.read)
    for task in viewing:
        task.cancel()
    await asyncio.wait(viewing)
    return counts


async def _again(kind: Callable[[Socket, Counts], Awaitable[None]], address: str, counts: Counts) -> None:
    """Come again whenever the connection ends."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with _let_in(address) as socket:
                await kind(socket, counts)
        await asyncio.sleep(AGAIN_S)


@contextlib.asynccontextmanager
async def _let_in(address: str) -> AsyncIterator[Socket]:
    parts = urlsplit(address)
    token = parts.fragment.removeprefix("token=")
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{parts.scheme}://{parts.netloc}/v1/live") as socket,
    ):
        await socket.send_json({"type": "hello", "token": token})
        yield socket


async def _quick(socket: Socket, counts: Counts) -> None:
    async for message in socket:
        if message.type is _FRAME:
            counts["quick"] += 1
            await _shown(socket, message.data)


async def _slow(socket: Socket, counts: Counts) -> None:
    async for message in socket:
        if message.type is _FRAME:
            counts["slow"] += 1
            await asyncio.sleep(SLOW_S)
            await _shown(socket, message.data)


async def _silent(socket: Socket, counts: Counts) -> None:
    async for message in socket:
        counts["silent"] += message.type is _FRAME


async def _deaf(socket: Socket, counts: Counts) -> None:
    await socket.receive()
    counts["deaf"] += 1
    await asyncio.sleep(DEAF_S)


async def _shown(socket: Socket, frame: bytes) -> None:
    length = int.from_bytes(frame[:4], "little")
    header = json.loads(frame[4 : 4 + length])
    await socket.send_json({"type": "shown", "number": header["number"]})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(sys.argv[1]))))
