"""The entities that Home Assistant makes of a run: a device, four of each object, and one picture.

Every one is described in a retained message of its own, which Home Assistant reads whenever it starts; an
empty one takes the entity away. An object's entities read one topic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.mqtt.names import slug
from runtime.mqtt.options import MqttOptions
from runtime.mqtt.topics import Message, Topics
from runtime.objects.tracking import TrackState

_PRESENCE = "{{ 'None' if value_json.present is none else 'ON' if value_json.present else 'OFF' }}"
# By the last part of the entity's ID: its kind, and what it has besides name, ID, topic and device.
_OF_AN_OBJECT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "presence": (
        "binary_sensor",
        {
            "name": "",
            "device_class": "occupancy",
            "value_template": _PRESENCE,
        },
    ),
    "area": (
        "sensor",
        {
            "name": " area",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "icon": "mdi:vector-square",
            "value_template": "{{ value_json.area }}",
        },
    ),
    "state": (
        "sensor",
        {
            "name": " state",
            "device_class": "enum",
            "options": [state.value for state in TrackState],
            "value_template": "{{ value_json.state }}",
        },
    ),
    "confidence": (
        "sensor",
        {
            "name": " confidence",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "icon": "mdi:check-decagram-outline",
            "value_template": "{{ value_json.confidence }}",
        },
    ),
}


def object_configs(name: str, topics: Topics, options: MqttOptions) -> Iterator[Message]:
    """What announces an object."""
    for ending, (kind, own) in _OF_AN_OBJECT.items():
        entity = _entity(name, ending)
        described = {
            **own,
            "name": f"{name}{own['name']}",
            "state_topic": topics.object(name),
            **_common(entity, topics, options),
        }
        yield _config(topics.config(kind, entity), described)


def object_removal(name: str, topics: Topics) -> Iterator[Message]:
    """What takes an object back: its entities and what is known of it."""
    for ending, (kind, _) in _OF_AN_OBJECT.items():
        yield Message(topics.config(kind, _entity(name, ending)), b"")
    yield Message(topics.object(name), b"")


def snapshot_configs(topics: Topics, options: MqttOptions) -> Iterator[Message]:
    """What announces the picture, and the button that asks for it."""
    image = {"name": "Snapshot", "image_topic": topics.snapshot, "content_type": "image/jpeg"}
    button = {
        "name": "Take a snapshot",
        "command_topic": topics.snapshot_request,
        "icon": "mdi:camera",
    }
    for kind, described in (("image", image), ("button", button)):
        entity = f"snapshot_{kind}"
        yield _config(topics.config(kind, entity), {**described, **_common(entity, topics, options)})


def _entity(name: str, ending: str) -> str:
    return f"{slug(name)}_{ending}"


def _common(entity: str, topics: Topics, options: MqttOptions) -> dict[str, Any]:
    return {
        "unique_id": f"{topics.node}_{entity}",
        "availability_topic": topics.status,
        "origin": {"name": "pedsam"},
        "device": {
            "identifiers": [topics.node],
            "name": topics.root.replace("/", " "),
            "manufacturer": "pedsam",
            "model": options.model or "pedsam",
        },
    }


def _config(topic: str, described: Mapping[str, Any]) -> Message:
    return Message(topic, json.dumps(described).encode("ascii"))
