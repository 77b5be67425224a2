"""A real MQTT broker on loopback, Debian's mosquitto, and somebody who reads all that it has."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.keys import keys_for

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
USER, PASSWORD = "camera", "s3cret"  # what a broker with `users` takes
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Mosquitto:
    """A broker that can be started again; it keeps nothing over that. `ca` has signed its certificate, None
    where it has none."""

    folder: Path
    port: int = field(default_factory=free_port)
    users: bool = False
    tls: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> Path:
        return self.folder / "keys/edge/a/ca.pem"

    @property
    def url(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{f'{USER}@' if self.users else ''}127.0.0.1:{self.port}"

    def start(self) -> None:
        if MOSQUITTO is None:
            raise RuntimeError("this needs mosquitto; on Debian: apt-get install mosquitto")
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(self._lines()) + "\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
        until_s = time.monotonic() + PATIENCE_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"mosquitto did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _lines(self) -> Iterator[str]:
        yield f"listener {self.port} 127.0.0.1"
        if os.getuid() == 0:
            yield "user root"  # it would read no file of this folder otherwise
        yield f"allow_anonymous {'false' if self.users else 'true'}"
        if self.users:
            file = self.folder / "passwords"
            subprocess.run(["/usr/bin/mosquitto_passwd", "-b", "-c", file, USER, PASSWORD], check=True)
            file.chmod(0o600)
            yield f"password_file {file}"
        if self.tls:
            if not self.ca.exists():
                keys_for(self.folder / "keys")
            yield f"certfile {self.folder}/keys/a/server.pem"
            yield f"keyfile {self.folder}/keys/a/server.key"

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True


@contextmanager
def mosquitto(folder: Path, **more: Any) -> Iterator[Mosquitto]:
    folder.mkdir(exist_ok=True)
    broker = Mosquitto(folder, **more)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@dataclass
class Reader:
    """Reads everything. `messages` are all that came, in order; `retained` what was there before it was."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    client: Client = field(init=False)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def newest(self) -> dict[str, bytes]:
        """The last message of each topic."""
        with self._news:
            return dict(self.messages)

    def json(self, topic: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.newest[topic])
        return found

    def until(self, condition: Callable[[dict[str, bytes]], bool], timeout_s: float = PATIENCE_S) -> None:
        """Waits until this holds of the last message of each topic."""
        with self._news:
            if not self._news.wait_for(lambda: condition(dict(self.messages)), timeout_s):
                raise TimeoutError(f"not within {timeout_s} s: {self.messages}")

    def take(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        with self._news:
            self.messages.append((message.topic, bytes(message.payload)))
            if message.retain:
                self.retained[message.topic] = bytes(message.payload)
            self._news.notify_all()


@contextmanager
def reader(broker: Mosquitto) -> Iterator[Reader]:
    """Somebody who has subscribed to all topics, and got what the broker keeps of them."""
    made = Reader()
    client = made.client = Client(CallbackAPIVersion.VERSION2)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = made.take
    if broker.users:
        client.username_pw_set(USER, PASSWORD)
    if broker.tls:
        client.tls_set(str(broker.ca))
    client.connect("127.0.0.1", broker.port)
    client.subscribe("#", 1)
    client.loop_start()
    try:
        if not subscribed.wait(PATIENCE_S):
            raise TimeoutError("the broker takes no subscription")
        yield made
    finally:
        client.disconnect()
        client.loop_stop()
