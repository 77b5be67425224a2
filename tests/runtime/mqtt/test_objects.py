"""What a broker is told of objects and when, and what Home Assistant makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
import pytest

from runtime.frames.sources import Frame
from runtime.mqtt import MqttOptions
from runtime.mqtt.discovery import snapshot_configs
from runtime.mqtt.objects import EVERY_S, UNSEEN_S, ObjectMessages
from runtime.mqtt.topics import Message, Topics
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.results.result import FrameResult, ObjectResult
from stages.address import Address

OPTIONS = MqttOptions(Address("mqtt://127.0.0.1"), topic="home/door", model="mini")
TOPICS = Topics("home/door")
PIXELS = np.zeros((10, 20, 3), np.uint8)
SURE = Trust(0.9)


def found(name: str, pixels: int | None, trust: Trust = SURE) -> ObjectResult:
    """An object of so many pixels of 200; None: it is lost."""
    if pixels is None:
        return ObjectResult(name, 0, TrackState.LOST, 0.0, None)
    mask = np.zeros(200, bool)
    mask[:pixels] = True
    return ObjectResult(name, 0, TrackState.TRACKED, 0.5, mask.reshape(10, 20), trust=trust)


def result(*objects: ObjectResult) -> FrameResult:
    return FrameResult(Frame(0, "0", 0.0, PIXELS), objects)


def contents(messages: list[Message]) -> list[dict[str, Any]]:
    """What is told of objects, without what announces them."""
    return [json.loads(each.payload) for each in messages if "/objects/" in each.topic and each.payload]


def test_an_object_is_announced_and_told_with_the_frame_that_shows_it() -> None:
    messages = ObjectMessages(TOPICS, OPTIONS).of(["cup"], result(found("cup", 50)), 0.0)
    kinds = [each.topic.split("/")[1] for each in messages[:4]]
    assert kinds == ["binary_sensor", "sensor", "sensor", "sensor"]
    assert all(each.retained for each in messages)
    assert contents(messages) == [
        {"name": "cup", "present": True, "state": "tracked", "area": 25.0, "confidence": 90.0, "check": None}
    ]


def test_what_a_person_should_look_at_is_told() -> None:
    objects = ObjectMessages(TOPICS, OPTIONS)
    told = contents(objects.of(["cup"], result(found("cup", 50, Trust(0.4, Check.GREW))), 0.0))
    assert (told[0]["confidence"], told[0]["check"]) == (40.0, "grew")


def test_presence_is_told_at_once_and_area_once_a_second() -> None:
    objects = ObjectMessages(TOPICS, OPTIONS)
    objects.of(["cup"], result(found("cup", 50)), 0.0)
    told = []
    for number in range(1, 31):  # three seconds of ten frames
        told += contents(objects.of(["cup"], result(found("cup", 50 + number)), number / 10))
    assert [each["area"] for each in told] == [30.0, 35.0, 40.0]
    assert [each["present"] for each in contents(objects.of(["cup"], result(found("cup", None)), 3.1))] == [
        False
    ]
    assert [each["present"] for each in contents(objects.of(["cup"], result(found("cup", 50)), 3.2))] == [
        True
    ]


def test_what_has_not_changed_is_not_told_again() -> None:
    objects = ObjectMessages(TOPICS, OPTIONS)
    assert len(objects.of(["cup"], result(found("cup", 50)), 0.0)) == 5
    assert not any(objects.of(["cup"], result(found("cup", 50)), float(second)) for second in range(1, 100))


def test_a_lost_frame_says_nothing_and_a_pause_that_nothing_is_known() -> None:
    objects = ObjectMessages(TOPICS, OPTIONS)
    objects.of(["cup"], result(found("cup", 50)), 0.0)
    assert not objects.of(["cup"], result(), UNSEEN_S - 0.1)
    unknown = {"name": "cup", **dict.fromkeys(("present", "state", "area", "confidence", "check"))}
    assert contents(objects.of(["cup"], result(), UNSEEN_S + EVERY_S)) == [unknown]
    assert not objects.of(["cup"], None, UNSEEN_S + 100)
    assert contents(objects.of(["cup"], result(found("cup", 50)), UNSEEN_S + 100.1))[0]["present"] is True


def test_a_removed_object_is_taken_back_and_a_renamed_one_moves() -> None:
    objects = ObjectMessages(TOPICS, OPTIONS)
    announced = {each.topic for each in objects.of(["cup"], result(found("cup", 50)), 0.0)}
    renamed = objects.of(["mug"], result(found("mug", 50)), 0.1)
    assert {each.topic for each in renamed if not each.payload} == announced
    assert len(announced) == 5
    assert contents(renamed)[0]["name"] == "mug"
    assert {each.topic for each in objects.of([], None, 0.2)} == {
        each.topic for each in renamed if each.payload
    }


def test_names_that_would_be_other_topics_stay_below_their_own() -> None:
    names = ["a/b", "+", "#", "$SYS", "a_b", "猫", "cup!", "cup?", "x" * 40]
    messages = ObjectMessages(TOPICS, OPTIONS).of(names, None, 0.0)
    assert len({each.topic for each in messages}) == 5 * len(names)
    for each in messages:
        levels = each.topic.split("/")
        assert levels[:3] == ["home", "door", "objects"] or levels[0] == "homeassistant"
        assert len(levels) == (4 if levels[0] == "home" else 5)
        assert not set(each.topic) & set("+#")
    ids = [json.loads(each.payload)["unique_id"] for each in messages if each.topic.endswith("/config")]
    assert len(set(ids)) == 4 * len(names)


@pytest.mark.parametrize(
    ("object_result", "shown"),
    [
        (found("cup", 50), ["ON", "25.0", "tracked", "90.0"]),
        (found("cup", None), ["OFF", "0.0", "lost", "None"]),
        (None, ["None", "None", "None", "None"]),  # which Home Assistant takes for unknown
    ],
)
def test_templates_give_what_home_assistant_expects(
    object_result: ObjectResult | None, shown: list[str]
) -> None:
    """By the language that Home Assistant reads templates in."""
    frame = result(object_result) if object_result else None
    *configs, told = ObjectMessages(TOPICS, OPTIONS).of(["cup"], frame, 0.0)
    values = json.loads(told.payload)
    described: list[Mapping[str, Any]] = [json.loads(each.payload) for each in configs]
    read = [jinja2.Template(each["value_template"]).render(value_json=values) for each in described]
    assert read == shown
    assert all(each["state_topic"] == told.topic for each in described)
    assert [each["name"] for each in described] == ["cup", "cup area", "cup state", "cup confidence"]


def test_every_entity_belongs_to_one_device_and_goes_with_the_run() -> None:
    messages = [*ObjectMessages(TOPICS, OPTIONS).of(["cup"], None, 0.0), *snapshot_configs(TOPICS, OPTIONS)]
    described = [json.loads(each.payload) for each in messages if each.topic.endswith("/config")]
    assert len(described) == 6
    devices = {json.dumps(each["device"]) for each in described}
    assert len(devices) == 1
    assert {each["availability_topic"] for each in described} == {"home/door/status"}
    assert described[-2]["image_topic"] == "home/door/snapshot"
    assert described[-1]["command_topic"] == "home/door/snapshot/get"
