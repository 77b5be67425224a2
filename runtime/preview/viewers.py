"""The viewers of a preview: each at its own pace, on a WebSocket of its own."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import WSCloseCode, WSMsgType, web
from anyio import to_thread
from anyio.abc import TaskGroup

from runtime.live.access import Access, RateLimit
from runtime.live.interface import Live
from runtime.live.newest import Newest
from runtime.objects.prompts import MAX_POINTS, entry_of
from runtime.preview import protocol
from runtime.preview.held_pictures import HeldEncoder
from runtime.preview.pictures import FrameEncoder
from runtime.preview.saving import make_file
from runtime.results.result import FrameResult
from runtime.results.sinks import PALETTE
from stages.errors import InputError, PedsamError, ungrouped

WRONG_TOKEN = 4401  # close codes of this protocol, after the HTTP statuses
TOO_MANY = 4429
MAX_PENDING = 32  # connections that have not sent hello yet
MAX_PROMPTS = 8  # of one viewer, under way at once
KEPT_FRAMES = 3  # the newest that a viewer was sent, to be held or saved: one is shown, others may wait
HEARTBEAT_S = 20.0  # a viewer whose machine is gone is noticed after that

# Each of these may take a round trip to the sites, or be large.
_LENGTHY = protocol.PromptCommand, protocol.ChooseCommand, protocol.ConfirmCommand, protocol.SaveCommand


@dataclass(frozen=True)
class ViewerLimits:
    """What a preview takes: viewers at once, messages a second from each, seconds it has to send hello."""

    viewers: int = 8
    messages_per_s: float = 200.0
    hello_s: float = 10.0


@dataclass(frozen=True)
class Shared:
    """What all viewers of a pipeline have in common; `changed` is the last command of one of them, `facts` go
    out in the answer to hello."""

    live: Live
    encoder: FrameEncoder
    held: HeldEncoder
    changed: Newest[protocol.Command]
    facts: dict[str, Any]
    limits: ViewerLimits
    status_s: float


class Viewers:
    """Everybody who watches one pipeline."""

    def __init__(self, access: Access, shared: Shared) -> None:
        self._access = access
        self._shared = shared
        self._pending: set[web.WebSocketResponse] = set()
        self._viewers: set[web.WebSocketResponse] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answers a request for the WebSocket, for as long as it is open."""
        if not self._access.allows_origin(request.headers.get("Origin"), request.headers.get("Host")):
            raise web.HTTPForbidden(text="only the preview's own page may connect\n")
        if len(self._pending) >= MAX_PENDING:
            raise web.HTTPServiceUnavailable(text="too many connections at once; try again\n")
        socket = web.WebSocketResponse(
            max_msg_size=protocol.MESSAGE_BYTES + 1,  # the first size that is refused
            heartbeat=HEARTBEAT_S,
            compress=False,
        )
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):  # it has gone
            if await self._authenticate(socket):
                await self._watch(socket)
        return socket

    async def close(self) -> None:
        """Close every connection: the run has ended."""
        for socket in [*self._pending, *self._viewers]:
            with contextlib.suppress(ConnectionError), anyio.move_on_after(1.0):
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the run has ended")

    async def _authenticate(self, socket: web.WebSocketResponse) -> bool:
        """Whether its first message is hello with the token; if not it is closed and gets nothing else."""
        self._pending.add(socket)
        try:
            with anyio.move_on_after(self._shared.limits.hello_s):
                message = await socket.receive()
                if message.type is WSMsgType.TEXT and self._has_token(message.data):
                    return True
            await socket.close(code=WRONG_TOKEN, message=b"a hello with the token of the address is needed")
        finally:
            self._pending.discard(socket)
        return False

    def _has_token(self, text: str) -> bool:
        try:
            hello = protocol.decode(text)
        except InputError:
            return False
        return isinstance(hello, protocol.Hello) and self._access.accepts(hello.token)

    async def _watch(self, socket: web.WebSocketResponse) -> None:
        most = self._shared.limits.viewers
        if len(self._viewers) >= most:
            refusal = protocol.encode("error", id=None, text=f"{most} viewers watch already; close one")
            await socket.send_str(refusal)
            await socket.close(code=TOO_MANY, message=b"too many viewers")
            return
        self._viewers.add(socket)
        try:
            self._tell_player()
            await _Viewer(socket, self._shared, self._count).run()
        finally:
            self._viewers.discard(socket)
            self._tell_player()

    def _tell_player(self) -> None:
        if player := self._shared.live.player:
            player.watched(bool(self._viewers))

    def _count(self) -> int:
        return len(self._viewers)


class _Viewer:
    """One viewer. The next frame goes out when the last one was acknowledged; it is then the newest."""

    def __init__(self, socket: web.WebSocketResponse, shared: Shared, count: Any) -> None:
        self._socket = socket
        self._shared = shared
        self._count = count
        self._rate = RateLimit(shared.limits.messages_per_s)
        self._sent: deque[FrameResult] = deque(maxlen=KEPT_FRAMES)
        self._saving = anyio.Lock()  # one file after another
        self._due: int | None = None  # the frame that was sent and not yet shown
        self._shown = anyio.Event()
        self._stream = anyio.CancelScope()  # of the frames that are being sent
        self._tries: Newest[protocol.Try] = Newest()
        self._looking = anyio.CancelScope()  # of the look that waits for its picture
        self._under_way = 0  # prompts and the like

    async def run(self) -> None:
        """Serve the viewer until either side closes the connection."""
        await self._send("hello", version=protocol.VERSION, **self._shared.facts)
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    self._send_frames, self._shared.encoder, contextlib.ExitStack(), self._stream
                )
                tasks.start_soon(self._send_status)
                tasks.start_soon(self._send_tried)
                await self._listen(tasks)
                tasks.cancel_scope.cancel()

    async def _send(self, kind: str, **content: Any) -> None:
        await self._socket.send_str(protocol.encode(kind, **content))

    async def _send_frames(
        self, encoder: FrameEncoder, holding: contextlib.ExitStack, stream: anyio.CancelScope
    ) -> None:
        with stream, holding:
            version = 0
            while True:
                frame = await encoder.after(version)
                version, self._due, self._shown = frame.version, frame.number, anyio.Event()
                self._sent.append(frame.result)
                await self._socket.send_bytes(frame.message)
                await self._shown.wait()

    async def _hold(self, message: protocol.Hold, tasks: TaskGroup) -> None:
        """Send one of the frames that were sent last, and no other, from now on; or the newest ones again."""
        encoder, holding = self._shared.encoder, contextlib.ExitStack()
        if message.number is not None:
            try:
                sent = self._frame_sent(message.number)
                encoder = encoder.of(holding.enter_context(self._shared.live.holding(sent)))
            except InputError as exc:
                await self._send("error", id=message.id, text=str(exc))
                return
        self._stream.cancel()
        self._stream = anyio.CancelScope()
        tasks.start_soon(self._send_frames, encoder, holding, self._stream)
        await self._send("done", id=message.id, name=None)

    async def _send_tried(self) -> None:
        """What the newest prompt that a viewer tries would find; those that came before it are left out."""
        version = 0
        while True:
            version, message = await self._tries.after(version)
            try:
                self._check_number(message.request.number)
                found = await self._shared.live.would_find(message.request)
            except PedsamError as exc:
                await self._send("error", id=message.id, text=str(exc))
                continue
            described = await to_thread.run_sync(self._shared.encoder.described, found) if found else None
            await self._send("tried", id=message.id, number=message.request.number, object=described)

    async def _look(self, message: protocol.Look, tasks: TaskGroup) -> None:
        """Let a look take the place of the one that waits; one for nobody leaves that alone."""
        if message.operator is not None:
            try:
                self._shared.held.check(message.operator)
            except InputError as exc:
                await self._send("error", id=message.id, text=str(exc))
                return
        self._looking.cancel()
        self._looking = anyio.CancelScope()
        if message.operator is not None:
            tasks.start_soon(self._send_held, message.operator, message.after, self._looking)

    async def _send_held(self, operator: str, after: int, looking: anyio.CancelScope) -> None:
        """What an operator holds, once there is something newer, unless the viewer looks elsewhere before."""
        with looking:
            await self._socket.send_bytes(await self._shared.held.after(operator, after))

    async def _send_status(self) -> None:
        """Every `status_s`, and at once after a command of any viewer."""
        changed = self._shared.changed
        while True:
            version = changed.version
            await self._send("status", viewers=self._count(), **self._shared.live.status().to_json())
            with anyio.move_on_after(self._shared.status_s):
                await changed.after(version)

    async def _listen(self, tasks: TaskGroup) -> None:
        async for message in self._socket:
            if not self._rate.allows():
                await self._socket.close(code=TOO_MANY, message=b"too many messages")
            elif message.type is WSMsgType.TEXT:
                await self._take(message.data, tasks)
            else:
                await self._send("error", id=None, text="a message is binary; those to the preview are text")

    async def _take(self, text: str, tasks: TaskGroup) -> None:
        try:
            message = protocol.decode(text)
        except protocol.ProtocolError as exc:
            await self._send("error", id=exc.id, text=str(exc))
            return
        if isinstance(message, protocol.FrameShown):
            if message.number == self._due:
                self._shown.set()
        elif isinstance(message, protocol.Look):
            await self._look(message, tasks)
        elif isinstance(message, protocol.Try):
            self._tries.put(message)
        elif isinstance(message, protocol.Hold):
            await self._hold(message, tasks)
        elif isinstance(message, protocol.Hello):
            await self._send("error", id=message.id, text="hello was said before")
        elif isinstance(message, protocol.PromptsCommand):
            objects = [entry_of(prompt) for prompt in self._shared.live.prompts().entries]
            await self._send("prompts", id=message.id, objects=objects)
        elif not isinstance(message, _LENGTHY):
            await self._answer(message)
        elif self._under_way >= MAX_PROMPTS:
            refusal = f"{MAX_PROMPTS} prompts are under way; wait for one"
            await self._send("error", id=message.id, text=refusal)
        else:
            self._under_way += 1
            tasks.start_soon(self._beside_others, message)

    async def _beside_others(self, message: protocol.Command | protocol.SaveCommand) -> None:
        """What may take a round trip to the sites, or be large, holds up no other message."""
        try:
            if isinstance(message, protocol.SaveCommand):
                await self._save(message)
            else:
                await self._answer(message)
        finally:
            self._under_way -= 1

    async def _save(self, message: protocol.SaveCommand) -> None:
        try:
            result = self._frame_sent(message.number)
            banner = self._shared.facts["banner"]
            async with self._saving:
                file = await to_thread.run_sync(make_file, message.file, result, message.name, banner)
        except PedsamError as exc:
            await self._send("error", id=message.id, text=str(exc))
            return
        header = {"id": message.id, "number": message.number, "name": file.name, "media": file.media}
        await self._socket.send_bytes(protocol.encode_picture("file", header, file.data))

    def _frame_sent(self, number: int) -> FrameResult:
        """The frame of this number as it was sent last. Raises InputError where others were sent since."""
        for result in reversed(self._sent):
            if result.number == number:
                return result
        raise InputError(
            f"frame {number} is none of the last {KEPT_FRAMES} that were sent here; take a newer one"
        )

    async def _answer(self, command: protocol.Command) -> None:
        try:
            name = await self._execute(command)
        except PedsamError as exc:
            await self._send("error", id=command.id, text=str(exc))
            return
        self._shared.changed.put(command)
        await self._send("done", id=command.id, name=name)

    async def _execute(self, command: protocol.Command) -> str | None:
        """Carry out a command; returns the name of the object it was about."""
        live = self._shared.live
        if isinstance(command, protocol.PromptCommand):
            self._check_number(command.request.number)
            return await live.prompt(command.request)
        if isinstance(command, protocol.ConfirmCommand):
            self._check_number(command.number)
            await live.confirm(command.name, command.number)
            return command.name
        if isinstance(command, protocol.ChooseCommand):
            await live.choose(command.name, command.mask)
            return command.name
        if isinstance(command, protocol.RemoveCommand):
            live.remove(command.name)
            return command.name
        if isinstance(command, protocol.RenameCommand):
            live.rename(command.name, command.new)
            return command.new
        if isinstance(command, protocol.UndoCommand):
            return live.undo()
        if isinstance(command, protocol.RedoCommand):
            return live.redo()
        if isinstance(command, protocol.PauseCommand):
            live.pause(command.paused)
        else:
            self._move(command)
        return None

    def _check_number(self, number: int) -> None:
        """Raise InputError for a frame that is yet to come. Before the first one 0 may be named."""
        newest = self._shared.live.frames.value
        most = newest.number if newest is not None else 0
        if number > most:
            raise InputError(f"frame {number} is yet to come: the newest is {most}")

    def _move(self, command: protocol.Move) -> None:
        """Go through the file that is shown."""
        player = self._shared.live.player
        if player is None:
            raise InputError("frames come by themselves here: there is no file to play or to go through")
        if isinstance(command, protocol.PlayCommand):
            player.play(command.playing)
        elif isinstance(command, protocol.SeekCommand):
            player.seek(command.time_s)
        else:
            player.step(command.by)


def facts(model: str, banner: str | None, limits: ViewerLimits) -> dict[str, Any]:
    """What is sent to a viewer once, in the answer to hello."""
    return {
        "model": model,
        "banner": banner,
        "palette": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in PALETTE],
        "limits": {
            "message_bytes": protocol.MESSAGE_BYTES,
            "messages_per_s": limits.messages_per_s,
            "name_characters": protocol.NAME_CHARACTERS,
            "points": MAX_POINTS,
        },
    }
