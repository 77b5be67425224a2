"""Whoever watches: each viewer at its own pace, on one WebSocket of its own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import WSCloseCode, WSMsgType, web
from anyio.abc import TaskGroup

from runtime.live import Live, Newest
from runtime.preview import protocol
from runtime.preview.access import Access, Rate
from runtime.preview.encoder import Encoder
from runtime.sinks import PALETTE
from stages.errors import InputError, PedsamError, ungrouped

WRONG_TOKEN = 4401  # close codes of this protocol, after the HTTP statuses
TOO_MANY = 4429
NEWCOMERS = 32  # connections that have not said hello yet
PROMPTS = 8  # of one viewer, under way at once
HEARTBEAT_S = 20.0  # a viewer whose machine is gone is noticed after that


@dataclass(frozen=True)
class Limits:
    """What a preview takes: viewers at once, messages a second from each, seconds until it says hello."""

    viewers: int = 8
    messages_per_s: float = 200.0
    hello_s: float = 10.0


@dataclass(frozen=True)
class Shared:
    """What all viewers of a loop have in common; `changed` is what one of them did last, `facts` are said in
    the answer to hello."""

    live: Live
    encoder: Encoder
    changed: Newest[protocol.Command]
    facts: dict[str, Any]
    limits: Limits
    status_s: float


class Viewers:
    """Everybody who watches one loop."""

    def __init__(self, access: Access, shared: Shared) -> None:
        self._access = access
        self._shared = shared
        self._newcomers: set[web.WebSocketResponse] = set()
        self._viewers: set[web.WebSocketResponse] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answers a request for the WebSocket, for as long as it is open."""
        if not self._access.originates(request.headers.get("Origin"), request.headers.get("Host")):
            raise web.HTTPForbidden(text="this is the preview's own page's only\n")
        if len(self._newcomers) >= NEWCOMERS:
            raise web.HTTPServiceUnavailable(text="too many connections at once; try again\n")
        socket = web.WebSocketResponse(
            max_msg_size=protocol.MESSAGE_BYTES, heartbeat=HEARTBEAT_S, compress=False
        )
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):  # it has gone; so be it
            if await self._welcome(socket):
                await self._watch(socket)
        return socket

    async def close(self) -> None:
        """Tells everybody that the preview ends."""
        for socket in [*self._newcomers, *self._viewers]:
            with contextlib.suppress(ConnectionError), anyio.move_on_after(1.0):
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the run has ended")

    async def _welcome(self, socket: web.WebSocketResponse) -> bool:
        """Whether it said hello with the token; else it is hung up on without having been told anything."""
        self._newcomers.add(socket)
        try:
            with anyio.move_on_after(self._shared.limits.hello_s):
                message = await socket.receive()
                if message.type is WSMsgType.TEXT and self._is_welcome(message.data):
                    return True
            await socket.close(code=WRONG_TOKEN, message=b"a hello with the token of the address is needed")
        finally:
            self._newcomers.discard(socket)
        return False

    def _is_welcome(self, text: str) -> bool:
        try:
            hello = protocol.decode(text)
        except InputError:
            return False
        return isinstance(hello, protocol.Hello) and self._access.knows(hello.token)

    async def _watch(self, socket: web.WebSocketResponse) -> None:
        most = self._shared.limits.viewers
        if len(self._viewers) >= most:
            await socket.send_str(protocol.encode("error", text=f"{most} viewers watch already; close one"))
            await socket.close(code=TOO_MANY, message=b"too many viewers")
            return
        self._viewers.add(socket)
        try:
            await _Viewer(socket, self._shared, self._count).run()
        finally:
            self._viewers.discard(socket)

    def _count(self) -> int:
        return len(self._viewers)


class _Viewer:
    """One who watches. Frames go out one by one: the next when the last was shown, and then the newest."""

    def __init__(self, socket: web.WebSocketResponse, shared: Shared, count: Any) -> None:
        self._socket = socket
        self._shared = shared
        self._count = count
        self._rate = Rate(shared.limits.messages_per_s)
        self._due: int | None = None  # the frame that was sent and not yet shown
        self._shown = anyio.Event()
        self._prompts = 0

    async def run(self) -> None:
        """Until either side hangs up."""
        await self._say("hello", version=protocol.VERSION, **self._shared.facts)
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_frames)
                tasks.start_soon(self._send_status)
                await self._listen(tasks)
                tasks.cancel_scope.cancel()

    async def _say(self, kind: str, **content: Any) -> None:
        await self._socket.send_str(protocol.encode(kind, **content))

    async def _send_frames(self) -> None:
        version = 0
        while True:
            frame = await self._shared.encoder.after(version)
            version, self._due, self._shown = frame.version, frame.number, anyio.Event()
            await self._socket.send_bytes(frame.message)
            await self._shown.wait()

    async def _send_status(self) -> None:
        """Now and then, and at once when somebody changed something."""
        changed = self._shared.changed
        while True:
            version = changed.version
            await self._say("status", viewers=self._count(), **self._shared.live.status())
            with anyio.move_on_after(self._shared.status_s):
                await changed.after(version)

    async def _listen(self, tasks: TaskGroup) -> None:
        async for message in self._socket:
            if not self._rate.allows():
                await self._socket.close(code=TOO_MANY, message=b"too many messages")
            elif message.type is WSMsgType.TEXT:
                await self._take(message.data, tasks)
            else:
                await self._say("error", id=None, text="a message is not text, as all to here are")

    async def _take(self, text: str, tasks: TaskGroup) -> None:
        try:
            message = protocol.decode(text)
        except protocol.Refused as exc:
            await self._say("error", id=exc.id, text=str(exc))
            return
        if isinstance(message, protocol.Seen):
            if message.number == self._due:
                self._shown.set()
        elif isinstance(message, protocol.Hello):
            await self._say("error", id=None, text="hello was said before")
        elif not isinstance(message, protocol.Prompted):
            await self._answer(message)
        elif self._prompts >= PROMPTS:
            await self._say("error", id=message.id, text=f"{PROMPTS} prompts are under way; wait for one")
        else:
            self._prompts += 1
            tasks.start_soon(self._prompt, message)

    async def _prompt(self, message: protocol.Prompted) -> None:
        """Beside the other messages: it may take a round trip to the sites."""
        try:
            await self._answer(message)
        finally:
            self._prompts -= 1

    async def _answer(self, command: protocol.Command) -> None:
        try:
            name = await self._obey(command)
        except PedsamError as exc:
            await self._say("error", id=command.id, text=str(exc))
            return
        self._shared.changed.put(command)
        await self._say("done", id=command.id, name=name)

    async def _obey(self, command: protocol.Command) -> str | None:
        """Does it; returns the name of the object it was about."""
        live = self._shared.live
        if isinstance(command, protocol.Prompted):
            return await live.prompt(command.request)
        if isinstance(command, protocol.Removed):
            live.remove(command.name)
            return command.name
        if isinstance(command, protocol.Renamed):
            live.rename(command.name, command.new)
            return command.new
        live.pause(command.paused)
        return None


def facts(model: str, banner: str | None, limits: Limits) -> dict[str, Any]:
    """What a viewer is told once."""
    return {
        "model": model,
        "banner": banner,
        "palette": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in PALETTE],
        "limits": {
            "message_bytes": protocol.MESSAGE_BYTES,
            "messages_per_s": limits.messages_per_s,
            "name_characters": protocol.NAME_CHARACTERS,
            "points": protocol.POINTS,
        },
    }
