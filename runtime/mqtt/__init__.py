"""MQTT as a sink of a run: what it sees, for Home Assistant and whatever else reads a broker."""

from runtime.mqtt.options import MqttOptions, check_mqtt
from runtime.mqtt.watcher import BrokerAnswer, ask_broker, publishing

__all__ = ["BrokerAnswer", "MqttOptions", "ask_broker", "check_mqtt", "publishing"]
