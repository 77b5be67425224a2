"""Messages that wait for the broker: bounded, newest first of their topic, all that is kept told anew."""

from __future__ import annotations

from runtime.mqtt.outbox import Outbox
from runtime.mqtt.topics import Message


def taken(outbox: Outbox) -> list[Message]:
    return list(iter(outbox.take, None))


def test_messages_leave_in_their_order_while_there_is_a_connection() -> None:
    outbox = Outbox()
    outbox.open([Message("status", b"online")])
    outbox.put([Message("a", b"1"), Message("b", b"2", retained=False)])
    assert [message.topic for message in taken(outbox)] == ["status", "a", "b"]
    assert outbox.take() is None


def test_without_a_connection_nothing_waits_and_what_is_kept_is_told_with_the_next() -> None:
    outbox = Outbox()
    outbox.put([Message("a", b"old"), Message("gone", b"x"), Message("picture", b"jpeg", retained=False)])
    outbox.put([Message("a", b"new"), Message("gone", b"")])
    assert outbox.take() is None
    outbox.open([])
    assert taken(outbox) == [Message("a", b"new")]
    outbox.put([Message("a", b"newer")])
    outbox.close()
    assert outbox.take() is None
    outbox.open([])
    assert taken(outbox) == [Message("a", b"newer")]
    assert outbox.left_out == 0


def test_of_a_topic_only_the_newest_waits_and_what_gave_way_is_counted() -> None:
    outbox = Outbox()
    outbox.open([])
    for number in range(5):
        outbox.put([Message("a", b"%d" % number)])
    assert taken(outbox) == [Message("a", b"4")]
    assert outbox.left_out == 4


def test_what_waits_is_bounded_whatever_is_put() -> None:
    outbox = Outbox(most=3)
    outbox.open([])
    outbox.put(Message(f"{number}", b"x") for number in range(10))
    assert [message.topic for message in taken(outbox)] == ["7", "8", "9"]
    assert outbox.left_out == 7


def test_whoever_sends_is_woken() -> None:
    outbox, woken = Outbox(), []
    outbox.wake = lambda: woken.append(True)
    outbox.put([Message("a", b"1")])
    assert woken == [True]
    assert outbox.keeps("a")
    assert not outbox.keeps("b")
