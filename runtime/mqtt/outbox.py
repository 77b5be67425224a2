"""Messages on their way to the broker, between the run, which never waits for it, and the thread that sends.

What a broker keeps (retained) is kept here too, so that it can be told anew after a connection was lost;
while there is none nothing queues up. With one, a message takes the place of an older one of its topic that
was not sent yet, and beyond MOST topics the oldest goes: what waits is bounded, and what is sent is new.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from runtime.mqtt.topics import Message

MOST = 1000  # messages that wait


class Outbox:
    """Callable from every thread. `wake` is called when there is something to take."""

    def __init__(self, most: int = MOST) -> None:
        self.left_out = 0  # messages that gave way to newer ones
        self.wake: Callable[[], None] = lambda: None
        self._most = most
        self._kept: dict[str, Message] = {}
        self._waiting: OrderedDict[str, Message] = OrderedDict()
        self._open = False
        self._lock = threading.Lock()

    def put(self, messages: Iterable[Message]) -> None:
        """Have messages sent, in their order, as soon as may be."""
        with self._lock:
            for message in messages:
                self._put(message)
        self.wake()

    def open(self, first: Iterable[Message]) -> None:
        """There is a connection: these are sent, and all that is kept."""
        with self._lock:
            self._open = True
            self._waiting = OrderedDict(
                (message.topic, message) for message in (*first, *self._kept.values())
            )

    def close(self) -> None:
        """There is no connection."""
        with self._lock:
            self._open = False
            self._waiting.clear()

    def take(self) -> Message | None:
        """The oldest message; None when there is none."""
        with self._lock:
            return self._waiting.popitem(last=False)[1] if self._waiting else None

    def keeps(self, topic: str) -> bool:
        """Whether a broker is to keep something here."""
        with self._lock:
            return topic in self._kept

    def _put(self, message: Message) -> None:
        if message.retained:
            self._kept.pop(message.topic, None)
            if message.payload:
                self._kept[message.topic] = message
        if not self._open:
            return
        self.left_out += self._waiting.pop(message.topic, None) is not None
        self._waiting[message.topic] = message
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
            self.left_out += 1
