"""MQTT as a sink of a run: what it sees, for Home Assistant and whatever else reads a broker."""

from runtime.mqtt.options import MqttOptions, check_mqtt
from runtime.mqtt.watcher import broker_doubts, publishing

__all__ = ["MqttOptions", "broker_doubts", "check_mqtt", "publishing"]
