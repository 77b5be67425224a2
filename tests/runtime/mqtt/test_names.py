"""Names of objects in topics and entities, and topics that people give."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.mqtt.names import MAX_TOPIC_BYTES, check_topic, slug
from stages.errors import InputError

NAMES = st.text(st.characters(), min_size=1, max_size=60)


@given(NAMES, NAMES)
@example("cup!", "cup?")
@example("Cup", "cup")
@example("a/b", "a_b")
@example("#", "+")
@example("猫", "犬")
@example("x" * 61, "x" * 62)
@example("\udce9", "\udcea")
def test_two_names_never_have_one_slug_and_every_slug_is_one_level_of_a_topic(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)
    for name in (one, other):
        assert re.fullmatch("[a-z0-9_]{1,60}", slug(name))


def test_a_name_that_looks_like_the_slug_of_another_does_not_have_it() -> None:
    other = slug("cup!")
    assert re.fullmatch("cup_[0-9a-f]{8}", other)
    assert slug(other) != other


def test_a_plain_name_stays_readable() -> None:
    assert slug("cup_2") == "cup_2"
    assert slug("Coffee Cup").startswith("coffee_cup_")


@pytest.mark.parametrize("topic", ["pedsam", "pedsam/door", "haus/küche/kamera 1"])
def test_topics_that_can_be(topic: str) -> None:
    check_topic(topic)


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("", "printable characters"),
        ("  ", "printable characters"),
        ("a\0b", "printable characters"),
        ("\udce9", "printable characters"),
        ("pedsam/#", "no #"),
        ("+/x", "no [+]"),
        ("$SYS/x", "the broker's own"),
        ("/pedsam", "begins and ends without /"),
        ("pedsam/", "begins and ends without /"),
        ("a//b", "begins and ends without /"),
        ("x" * (MAX_TOPIC_BYTES + 1), "at most 200 bytes"),
    ],
)
def test_topics_that_cannot_be(topic: str, words: str) -> None:
    with pytest.raises(InputError, match=f"{words}.*; expected one like pedsam or pedsam/door"):
        check_topic(topic)
