"""Where a run's messages go, below the topic that it was given and below Home Assistant's.

TOPIC/status              "online" or "offline", the last will; retained
TOPIC/objects/SLUG        what is known of an object, JSON; retained
TOPIC/snapshot            the newest frame with its masks, JPEG; only when asked for, not retained
TOPIC/snapshot/get        whoever publishes here asks for one
homeassistant/KIND/NODE/ID/config   an entity of Home Assistant, JSON; retained
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.mqtt.names import slug

DISCOVERY = "homeassistant"


@dataclass(frozen=True)
class Message:
    """What goes to the broker. An empty one that is retained takes the one before it back."""

    topic: str
    payload: bytes
    retained: bool = True


@dataclass(frozen=True)
class Topics:
    """Those of a run whose topic is `root`, which `check_topic` has passed."""

    root: str

    @property
    def node(self) -> str:
        """What the run's device and entities are known by."""
        return slug(self.root)

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def snapshot(self) -> str:
        return f"{self.root}/snapshot"

    @property
    def snapshot_request(self) -> str:
        return f"{self.root}/snapshot/get"

    def object(self, name: str) -> str:
        return f"{self.root}/objects/{slug(name)}"

    def config(self, kind: str, entity: str) -> str:
        """Where Home Assistant looks for an entity of `kind`."""
        return f"{DISCOVERY}/{kind}/{self.node}/{entity}/config"

    @property
    def retained_filters(self) -> tuple[str, ...]:
        """What an earlier run with this topic may have left."""
        return f"{self.root}/objects/+", f"{DISCOVERY}/+/{self.node}/+/config"
