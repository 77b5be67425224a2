"""What a broker is told of objects, and how often.

An object that comes, goes or is found again is told with the frame that shows it. Its area, state and
confidence follow at most once a second, and only when they have changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.mqtt.discovery import object_configs, object_removal
from runtime.mqtt.options import MqttOptions
from runtime.mqtt.topics import Message, Topics
from runtime.results.result import FrameResult, ObjectResult

EVERY_S = 1.0  # between two messages about one object whose presence is the same
UNSEEN_S = 5.0  # an object that no frame was searched for, as while paused, is neither here nor away


@dataclass
class _Known:
    """What is known of one object; `told` is the message's content, None before the first."""

    present: bool | None = None
    seen_s: float = 0.0  # when a frame was searched for it last
    told: Mapping[str, Any] | None = None
    told_s: float = 0.0


class ObjectMessages:
    """Makes messages of results. Call `of` for each frame, and now and then while none comes."""

    def __init__(self, topics: Topics, options: MqttOptions) -> None:
        self._topics = topics
        self._options = options
        self._known: dict[str, _Known] = {}

    def of(self, names: Iterable[str], result: FrameResult | None, now_s: float) -> list[Message]:
        """What is to be told now. `names` are those of all objects, `result` the newest frame."""
        return [*self._changed(dict.fromkeys(names), now_s), *self._told(result, now_s)]

    def _changed(self, names: Iterable[str], now_s: float) -> Iterator[Message]:
        """Objects that are gone and objects that are new; one with a new name is both."""
        for gone in [name for name in self._known if name not in names]:
            del self._known[gone]
            yield from object_removal(gone, self._topics)
        for name in names:
            if name not in self._known:
                self._known[name] = _Known(seen_s=now_s)
                yield from object_configs(name, self._topics, self._options)

    def _told(self, result: FrameResult | None, now_s: float) -> Iterator[Message]:
        found = {each.name: each for each in result.objects} if result else {}
        for name, known in self._known.items():
            each = found.get(name)
            if each is not None:
                known.seen_s = now_s
            elif known.told is not None and now_s - known.seen_s < UNSEEN_S:
                continue  # one frame that is lost says nothing
            present = None if each is None else each.mask is not None
            if known.told is not None and present is known.present and now_s - known.told_s < EVERY_S:
                continue
            content = _content(name, each)
            known.present = present
            if content != known.told:
                known.told, known.told_s = content, now_s
                yield Message(self._topics.object(name), json.dumps(content).encode("ascii"))


def _content(name: str, found: ObjectResult | None) -> dict[str, Any]:
    """`area` is in percent of the frame, `confidence` in percent; `check` says why a person should look."""
    if found is None:
        unknown = dict.fromkeys(("present", "state", "area", "confidence", "check"))
        return {"name": name, **unknown}
    mask, trust = found.mask, found.trust
    return {
        "name": name,
        "present": mask is not None,
        "state": found.state.value,
        "area": 0.0 if mask is None else round(100 * float(np.count_nonzero(mask)) / mask.size, 2),
        "confidence": None if mask is None else round(100 * trust.confidence, 1),
        "check": trust.check.value if trust.check else None,
    }
