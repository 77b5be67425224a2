"""The connection to a broker, in a thread of its own: what it does to the network nobody waits for.

One thread does all of it: it connects, sends what the outbox has, takes in what the broker sends, and begins
again, with growing waits, when the connection is lost. paho-mqtt speaks MQTT 3.1.1, which every broker does.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from runtime.mqtt.options import Broker
from runtime.mqtt.outbox import Outbox
from runtime.mqtt.topics import Message, Topics

if TYPE_CHECKING:  # what an edge without pedsam[mqtt] does not have
    from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

CONNECT_S = 10.0  # until a broker must have let us in
ANSWER_S = 20.0  # until it must have acknowledged a message
KEEPALIVE_S = 30  # a broker that is gone is noticed after about that; it notices us after 1.5 times that
END_S = 3.0  # to say goodbye
SETTLE_S = 5.0  # in which a broker has sent what earlier runs left
IN_FLIGHT = 10  # messages that wait for their acknowledgement
SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 60.0  # after a connection that has lasted so long the next wait is the shortest again

# MQTT 3.1.1 has no words for why.
_ENDED = "it ended the connection; was it stopped, or has another run the same --mqtt-topic?"


class BrokerProblemError(Exception):
    """Why there is no connection: a clause for a person."""


def waits(shortest_s: float = SHORTEST_WAIT_S, longest_s: float = LONGEST_WAIT_S) -> Iterator[float]:
    """Seconds between attempts, each twice the one before."""
    wait_s = shortest_s
    while True:
        yield wait_s
        wait_s = min(longest_s, 2 * wait_s)


class Connection:
    """Begins with `start` and ends with `stop`. `tell` gets sentences; `on_request` is called when somebody
    asks for a snapshot. Both are called on the connection's thread."""

    def __init__(
        self,
        broker: Broker,
        topics: Topics,
        outbox: Outbox,
        tell: Callable[[str], None],
        on_request: Callable[[], None] | None = None,
        make_waits: Callable[[], Iterator[float]] = waits,
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._outbox = outbox
        self._tell = tell
        self._on_request = on_request
        self._make_waits = make_waits
        self._ending = threading.Event()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._reason: ReasonCode | None = None  # of the broker's answer, in this attempt
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        outbox.wake = self._wake

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye and end; blocks, a few seconds at most."""
        self._ending.set()
        self._wake()
        self._thread.join(END_S + 1)

    def ask(self) -> str | None:
        """Connect and hang up, without `start`: why that cannot be, None if it can. Blocks, for about
        CONNECT_S at most. It disturbs no run with the same topic."""
        with self._wake_out, self._wake_in:
            try:
                client = self._make_client(f"{self._name[:19]}-ask")
                with self._accepted(client):
                    client.disconnect()
            except Exception as exc:  # whatever the broker sends
                return why(exc)
        return None

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:  # it is full, and so is awake, or closed at the end
            return

    def _run(self) -> None:
        following = self._make_waits()
        with self._wake_out, self._wake_in:
            while not self._ending.is_set():
                started_s = time.monotonic()
                self._try()
                if time.monotonic() - started_s > STEADY_S:
                    following = self._make_waits()
                self._ending.wait(next(following))

    def _try(self) -> None:
        try:
            self._session()
        except Exception as exc:  # the run goes on without its broker, whatever that sends
            if not self._ending.is_set():
                self._tell(f"broker {self._broker.shown}: {why(exc)}; trying again")
        finally:
            self._outbox.close()

    def _session(self) -> None:
        """One connection, from its beginning until it is lost, which raises an exception, or `stop`."""
        self._reason = None
        client = self._make_client(self._name)
        client.will_set(self._topics.status, b"offline", qos=1, retain=True)
        client.on_message = self._take
        with self._accepted(client):
            filters = self._topics.retained_filters
            requests = (self._topics.snapshot_request,) if self._on_request else ()
            client.subscribe([(each, 1) for each in (*filters, *requests)])
            self._outbox.open([Message(self._topics.status, b"online")])
            self._tell(f"broker {self._broker.shown}: connected")
            self._exchange(client, list(filters))
            self._say_goodbye(client)

    @contextlib.contextmanager
    def _accepted(self, client: Client) -> Iterator[None]:
        """A connection that the broker has accepted; closed with the block."""
        client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
        try:
            self._wait_until_accepted(client)
            yield
        finally:
            if (opened := client.socket()) is not None:
                opened.close()

    @property
    def _name(self) -> str:
        """What the broker knows us by, of at most 23 characters; it ends an older connection of this name."""
        return f"pedsam-{hashlib.sha256(self._topics.root.encode('utf-8')).hexdigest()[:12]}"

    def _make_client(self, name: str) -> Client:
        from paho.mqtt.client import Client, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv311)
        client.connect_timeout = CONNECT_S
        if self._broker.user is not None:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)
        client.on_connect = self._note_answer
        return client

    def _note_answer(
        self,
        client: Client,
        userdata: Any,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._reason = reason

    def _wait_until_accepted(self, client: Client) -> None:
        until_s = time.monotonic() + CONNECT_S
        while self._reason is None:
            if time.monotonic() > until_s:
                raise TimeoutError
            self._pump(client, 0.5)
        if self._reason.is_failure:
            raise BrokerProblemError(_refusal(self._reason))

    def _exchange(self, client: Client, filters: list[str]) -> None:
        """Send and take in until `stop`."""
        settled_s = time.monotonic() + SETTLE_S
        under_way: deque[tuple[float, MQTTMessageInfo]] = deque()
        while not self._ending.is_set():
            self._send(client, under_way)
            self._pump(client, 1.0)
            if filters and time.monotonic() > settled_s:
                client.unsubscribe(filters)
                filters = []

    def _send(self, client: Client, under_way: deque[tuple[float, MQTTMessageInfo]]) -> None:
        """Give the client messages, as many as may be `under_way`."""
        while under_way and under_way[0][1].is_published():
            under_way.popleft()
        if under_way and time.monotonic() - under_way[0][0] > ANSWER_S:
            raise BrokerProblemError(f"it has not acknowledged a message for {ANSWER_S:.0f} s")
        while len(under_way) < IN_FLIGHT and (message := self._outbox.take()) is not None:
            under_way.append((time.monotonic(), _publish(client, message)))

    def _say_goodbye(self, client: Client) -> None:
        """Send what is left, that the run is over, and close; what takes longer than END_S is left undone."""
        until_s = time.monotonic() + END_S
        under_way: deque[tuple[float, MQTTMessageInfo]] = deque()
        last: MQTTMessageInfo | None = None
        while time.monotonic() < until_s:
            self._send(client, under_way)
            if last is None and not under_way:
                last = _publish(client, Message(self._topics.status, b"offline"))
            if last is not None and last.is_published():
                client.disconnect()
                return
            self._pump(client, 0.1)

    def _pump(self, client: Client, timeout_s: float) -> None:
        """Wait until the network or the outbox has something, and let the client do its part."""
        from paho.mqtt.client import error_string
        from paho.mqtt.enums import MQTTErrorCode

        opened = client.socket()
        if opened is None:
            raise BrokerProblemError(_ENDED)
        decrypted = isinstance(opened, ssl.SSLSocket) and opened.pending() > 0
        events = self._wait(opened.fileno(), client.want_write(), 0.0 if decrypted else timeout_s)
        result = MQTTErrorCode.MQTT_ERR_SUCCESS
        if decrypted or events & ~select.POLLOUT:
            result = client.loop_read()
        if events & select.POLLOUT and client.socket() is not None:
            result = result or client.loop_write()
        result = result or client.loop_misc()
        if result and self._reason is None:
            raise BrokerProblemError(
                "it ended the connection before it answered; does it want TLS, mqtts://?"
            )
        if result and not self._reason_is_failure():
            lost = result == MQTTErrorCode.MQTT_ERR_CONN_LOST
            raise BrokerProblemError(
                _ENDED if lost else f"the connection is lost ({error_string(result).rstrip('.')})"
            )

    def _reason_is_failure(self) -> bool:
        return self._reason is not None and self._reason.is_failure

    def _wait(self, descriptor: int, writing: bool, timeout_s: float) -> int:
        """The poll events of the broker's socket; 0 when none come in time, or there is something to send."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if writing else 0))
        poll.register(self._wake_in, select.POLLIN)
        events = dict(poll.poll(timeout_s * 1000))
        if self._wake_in.fileno() in events:
            self._wake_in.recv(4096)
        return events.get(descriptor, 0)

    def _take(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        """A request, or what an earlier run has left: that is taken back."""
        if message.topic == self._topics.snapshot_request:
            if self._on_request and not message.retain:
                self._on_request()
        elif message.retain and message.payload and not self._outbox.keeps(message.topic):
            self._outbox.put([Message(message.topic, b"")])


def _publish(client: Client, message: Message) -> MQTTMessageInfo:
    return client.publish(message.topic, message.payload, qos=1, retain=message.retained)


def why(problem: Exception) -> str:
    """A clause saying why there is no connection, and what to do where something can be done."""
    if isinstance(problem, BrokerProblemError):
        return str(problem)
    if isinstance(problem, ssl.SSLCertVerificationError):
        said = problem.verify_message.rstrip(".")
        if "mismatch" in said.lower():
            return f"its certificate is for another name ({said}); give that name in --mqtt"
        return f"its certificate is not trusted ({said}); give the one of whoever signed it by --mqtt-ca"
    if isinstance(problem, ssl.SSLError):
        return f"it speaks no TLS that this machine takes ({problem.reason}); is it mqtt:// at this port?"
    if isinstance(problem, TimeoutError):
        return "it does not answer"
    if isinstance(problem, OSError):
        return f"it cannot be reached ({problem.strerror or problem})"
    return f"it sent what cannot be read ({type(problem).__name__})"


def _refusal(reason: ReasonCode) -> str:
    if str(reason) in ("Bad user name or password", "Not authorized"):
        return f"it refuses the user or the password ({reason}); check --mqtt and --mqtt-password-file"
    return f"it refuses the connection ({reason})"
