"""Brokers that stand still, or send what is no MQTT: the run goes on and says so."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket

import anyio
import pytest

from runtime.mqtt import MqttOptions, publishing
from runtime.mqtt.connection import Connection, waits
from runtime.mqtt.options import Broker, check_mqtt
from runtime.mqtt.outbox import Outbox
from runtime.mqtt.topics import Topics
from runtime.mqtt.watcher import SLOW
from runtime.objects.tracking import TrackState
from stages.address import Address
from tests.support.live import FakeLive

pytestmark = pytest.mark.anyio
CONNACK = b"\x20\x02\x00\x00"
ACCEPTS_NOBODY = b"\x20\x02\x00\x03"  # "server unavailable"


@contextmanager
def answering(serve: Callable[[socket], None]) -> Iterator[Broker]:
    """A server of one connection after another, each in the hands of `serve`."""
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            port = listening.getsockname()[1]
            yield check_mqtt(MqttOptions(Address(f"mqtt://127.0.0.1:{port}")))
        finally:
            ended.set()
            with socket() as last:
                last.connect(listening.getsockname())
            thread.join(5)


def accepts_and_stands_still(connection: socket) -> None:
    """It takes what comes, and acknowledges nothing."""
    connection.recv(4096)
    connection.sendall(CONNACK)
    while connection.recv(65536):
        pass


async def test_frames_go_on_beside_a_broker_that_stands_still_and_what_gave_way_is_told_once() -> None:
    live = FakeLive()
    told: list[str] = []
    await live.prompt_at(300, 200)
    with answering(accepts_and_stands_still) as broker:
        options = MqttOptions(Address(broker.shown))
        async with publishing(live, options, told.append):
            with anyio.fail_after(60):
                while SLOW not in told:
                    live.advance()
                    lost = live.number % 2
                    live.objects["object 1"].state = TrackState.LOST if lost else TrackState.TRACKED
                    started_s = time.monotonic()
                    await anyio.sleep(0.005)
                    assert time.monotonic() - started_s < 5
            for _ in range(20):
                live.advance()
                await anyio.sleep(0.005)
    assert told.count(SLOW) == 1
    assert told[-1].endswith("messages to the broker gave way to newer ones")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "it ended the connection before it answered"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it ended the connection before it answered|cannot be read"),
        (b"\x20\xff\xff\xff\xff\xff\x7f", "it ended the connection before it answered|cannot be read"),
        (ACCEPTS_NOBODY, r"it refuses the connection \(Server unavailable\)"),
        (CONNACK + b"\x30\x04\x00\x09ab", "cannot be read|the connection is lost"),
        (CONNACK + b"\x31\x05\x00\x02\xff\xfex", "cannot be read"),
    ],
    ids=["nothing", "another protocol", "an endless length", "no", "half a topic", "no UTF-8"],
)
def test_what_a_broker_sends_ends_no_run(sent: bytes, words: str) -> None:
    def serve(connection: socket) -> None:
        connection.recv(4096)
        connection.sendall(sent)
        if sent.startswith(CONNACK):
            connection.recv(4096)  # until it has taken that in

    told: list[str] = []
    news = threading.Condition()

    def tell(text: str) -> None:
        with news:
            told.append(text)
            news.notify_all()

    with answering(serve) as broker:
        connection = Connection(
            broker, Topics("pedsam"), Outbox(), tell, lambda: None, lambda: iter([0.01] * 99)
        )
        connection.start()
        with news:
            failures = news.wait_for(lambda: sum("; trying again" in text for text in told) >= 2, 30)
        connection.stop()
    assert failures, told
    assert any(re.search(words, text) for text in told), told
    assert all(text.startswith(f"broker {broker.shown}: ") for text in told)


def test_waits_grow_to_a_minute() -> None:
    following = waits()
    assert [next(following) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
