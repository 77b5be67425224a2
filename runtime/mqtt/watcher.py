"""MQTT beside a run: objects and, for whoever asks, pictures go to the broker while it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
from anyio import CancelScope, to_thread

from runtime.live.interface import Live
from runtime.live.newest import Newest
from runtime.live.overlays import OverlayEncoder
from runtime.mqtt.connection import Connection
from runtime.mqtt.discovery import snapshot_configs
from runtime.mqtt.objects import EVERY_S, ObjectMessages
from runtime.mqtt.options import MqttOptions, check_mqtt
from runtime.mqtt.outbox import Outbox
from runtime.mqtt.topics import Message, Topics
from runtime.results.result import FrameResult
from stages.errors import ungrouped

SNAPSHOT_EVERY_S = 1.0
STALE_S = 60.0  # so long without a frame, as with a camera that fails, nothing is known of any object
SLOW_FROM = 10  # messages that gave way; one or the other does while a connection begins
SLOW = "the broker is slower than the results: of what waits for it only the newest is sent"


@contextlib.asynccontextmanager
async def publishing(live: Live, options: MqttOptions, tell: Callable[[str], None]) -> AsyncIterator[str]:
    """Tells a broker of a run while the block runs; gives a line that says where.

    A broker that cannot be reached stops nothing: `tell` gets a sentence, and it is tried again. Raises
    InputError like `check_mqtt`.
    """
    broker, topics, outbox = check_mqtt(options), Topics(options.topic), Outbox()
    requests, loop = Newest[bool](), asyncio.get_running_loop()

    def ask() -> None:
        loop.call_soon_threadsafe(requests.put, True)

    connection = Connection(broker, topics, outbox, tell, ask if options.snapshots else None)
    objects = ObjectMessages(topics, options)
    async with _connected(connection, live, objects, outbox, tell):
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                if options.snapshots:
                    outbox.put(snapshot_configs(topics, options))
                    overlays = OverlayEncoder(live.frames, options.banner)
                    tasks.start_soon(_answer, requests, overlays, topics, outbox)
                tasks.start_soon(_tell_objects, live, objects, outbox, tell)
                try:
                    yield f"MQTT to {broker.shown}, topic {topics.root}, node {topics.node}"
                finally:
                    tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class BrokerAnswer:
    """What a run would tell of its broker now; `welcome` where that lets it in."""

    sentence: str
    welcome: bool


def ask_broker(options: MqttOptions) -> BrokerAnswer:
    """Connect as a run with these options would, and hang up. Blocks, some seconds at most. Raises InputError
    like `check_mqtt`."""
    broker = check_mqtt(options)
    problem = Connection(broker, Topics(options.topic), Outbox(), lambda text: None).ask()
    return BrokerAnswer(f"broker {broker.shown}: {problem or 'it accepts the connection'}", problem is None)


@contextlib.asynccontextmanager
async def _connected(
    connection: Connection,
    live: Live,
    objects: ObjectMessages,
    outbox: Outbox,
    tell: Callable[[str], None],
) -> AsyncIterator[None]:
    """The connection while the block runs; at its end the last frame is told too."""
    connection.start()
    try:
        yield
    finally:
        with CancelScope(shield=True):
            last = live.frames.value
            outbox.put(await to_thread.run_sync(objects.of, live.object_names, last, time.monotonic()))
            await to_thread.run_sync(connection.stop)
        if outbox.left_out >= SLOW_FROM:
            tell(f"{outbox.left_out} messages to the broker gave way to newer ones")


async def _tell_objects(
    live: Live, messages: ObjectMessages, outbox: Outbox, tell: Callable[[str], None]
) -> None:
    version, result, came_s = 0, None, time.monotonic()
    slow = False
    while True:
        with anyio.move_on_after(EVERY_S):
            version, result = await live.frames.after(version)
            came_s = time.monotonic()
        outbox.put(await to_thread.run_sync(_messages, messages, live.object_names, result, came_s))
        if outbox.left_out >= SLOW_FROM and not slow:
            tell(SLOW)
            slow = True


def _messages(
    messages: ObjectMessages, names: tuple[str, ...], result: FrameResult | None, came_s: float
) -> list[Message]:
    now_s = time.monotonic()
    return messages.of(names, result if now_s - came_s < STALE_S else None, now_s)


async def _answer(requests: Newest[bool], overlays: OverlayEncoder, topics: Topics, outbox: Outbox) -> None:
    """A picture for those who have asked since the last one, at most one every SNAPSHOT_EVERY_S."""
    version = 0
    while True:
        version, _ = await requests.after(version)
        overlay = await overlays.after(0)
        outbox.put([Message(topics.snapshot, overlay.jpeg, retained=False)])
        await anyio.sleep(SNAPSHOT_EVERY_S)
