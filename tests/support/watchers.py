"""Viewers of a preview, as a program would be one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
from aiohttp import WSMsgType

from runtime.live.interface import Live
from runtime.preview import PreviewOptions, preview, protocol
from tests.support.live import FakeLive

DEADLINE_S = 60  # generous: what is waited for comes, or the test fails


@dataclass(frozen=True)
class Frame:
    """A binary message; the file of a frame is a JPEG."""

    header: dict[str, Any]
    file: bytes

    @property
    def number(self) -> int:
        number: int = self.header["number"]
        return number

    @property
    def names(self) -> list[str]:
        return [found["name"] for found in self.header["objects"]]


class Watcher:
    """One open WebSocket; what arrives is kept in order, frames apart from texts."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[Any]) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        self.texts: list[dict[str, Any]] = []

    async def say(self, kind: str, **content: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **content}))

    async def read(self) -> Frame | dict[str, Any] | None:
        """The next message, None when the other side has hung up."""
        message = await self.socket.receive()
        if message.type is WSMsgType.BINARY:
            self.frames.append(Frame(*protocol.decode_frame(message.data)))
            return self.frames[-1]
        if message.type is WSMsgType.TEXT:
            self.texts.append(json.loads(message.data))
            return self.texts[-1]
        return None

    async def text(self, kind: str) -> dict[str, Any]:
        """The next text of this type."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                message = await self.read()
                assert message is not None, f"hung up before {kind}"
                if isinstance(message, dict) and message["type"] == kind:
                    return message

    async def frame(self) -> Frame:
        """The next frame, which is then acknowledged."""
        message = await self.binary("frame")
        await self.say("shown", number=message.number)
        return message

    async def binary(self, kind: str) -> Frame:
        """The next picture of this type."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                message = await self.read()
                assert message is not None, f"hung up before {kind}"
                if isinstance(message, Frame) and message.header["type"] == kind:
                    return message

    async def closed(self) -> int:
        """The close code, after whatever came before it."""
        with anyio.fail_after(DEADLINE_S):
            while await self.read() is not None:
                pass
        assert self.socket.close_code is not None
        return self.socket.close_code


@dataclass(frozen=True)
class RunningPreview:
    """A preview that runs."""

    live: FakeLive
    address: str
    session: aiohttp.ClientSession
    opened: list[Watcher] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.address.split("/#")[0]

    @property
    def token(self) -> str:
        return urlsplit(self.address).fragment.removeprefix("token=")

    async def dial(self, **options: Any) -> Watcher:
        """A connection that has said nothing yet."""
        self.opened.append(Watcher(await self.session.ws_connect(self.base + protocol.PATH, **options)))
        return self.opened[-1]

    async def watch(self) -> Watcher:
        """A viewer that was let in."""
        watcher = await self.dial()
        await watcher.say("hello", token=self.token)
        assert (await watcher.text("hello"))["version"] == protocol.VERSION
        return watcher


@asynccontextmanager
async def running_preview(live: FakeLive | None = None, **options: Any) -> AsyncIterator[RunningPreview]:
    live = live or FakeLive()
    async with (
        preview(live, PreviewOptions(port=0, **options)) as address,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        run = RunningPreview(live, address, session)
        yield run
        for watcher in run.opened:
            await watcher.socket.close()


@asynccontextmanager
async def watching(live: Live) -> AsyncIterator[Watcher]:
    """A viewer of any pipeline that was let in; it has read nothing but the answer to hello."""
    async with preview(live, PreviewOptions(port=0)) as address, aiohttp.ClientSession() as session:
        base, token = address.split("/#token=")
        async with session.ws_connect(base + protocol.PATH, max_msg_size=0) as socket:
            watcher = Watcher(socket)
            await watcher.say("hello", token=token)
            await watcher.text("hello")
            yield watcher
