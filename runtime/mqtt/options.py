"""What a run is told about its broker, and what can be known to be wrong with it before it is asked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.mqtt.names import check_topic
from stages.address import Address
from stages.errors import InputError
from stages.network import is_loopback
from stages.text_files import read_text

EXPECTED = "expected mqtt://user@host:port, or mqtts:// for TLS"
PORTS = {"mqtt": 1883, "mqtts": 8883}
_MAX_PASSWORD_BYTES = 64 << 10  # what MQTT can hold


@dataclass(frozen=True)
class MqttOptions:
    """`broker` is mqtt(s)://user@host:port. `ca` is whose certificates are trusted, by default the system's.

    Plain MQTT to another machine needs `insecure`. Without `snapshots` nobody gets a picture. `banner` is
    drawn into those, `model` is shown as the device's.
    """

    broker: Address
    password_file: Path | None = None
    topic: str = "pedsam"
    ca: Path | None = None
    insecure: bool = False
    snapshots: bool = True
    model: str = ""
    banner: str | None = None


@dataclass(frozen=True)
class Broker:
    """Where a broker is and what it takes to talk to it. `shown` names it for people."""

    host: str
    port: int
    shown: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


def check_mqtt(options: MqttOptions) -> Broker:
    """The broker of these options. Raises InputError for whatever cannot be used, and where the package that
    speaks MQTT is missing; asks nobody."""
    _check_package()
    host, port, user, password = broker_parts(options.broker)
    check_topic(options.topic)
    secure = options.broker.scheme == "mqtts"
    if not secure and not is_loopback(host) and not options.insecure:
        raise InputError(
            f"{options.broker} is plain MQTT to another machine: anyone on the way could read the password "
            "and see pictures; give mqtts://, or --mqtt-insecure in a network of your own"
        )
    if options.ca is not None and not secure:
        raise InputError(f"--mqtt-ca is for TLS, and {options.broker} has none; give mqtts://")
    if options.password_file is not None:
        password = _password(options.password_file, user, password)
    shown = f"{options.broker.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return Broker(host, port, shown, user, password, _context(options.ca) if secure else None)


def broker_parts(address: Address) -> tuple[str, int, str | None, str | None]:
    """Host, port, user and password. Raises InputError, which shows nothing secret, for an address that is
    none of a broker."""
    if address.scheme not in PORTS:
        raise InputError(f"it is no address of a broker, {EXPECTED}")
    login, _, place = address.secret.partition("://")[2].rpartition("@")
    if set(login) & set("/?#"):
        raise InputError(
            "its user or password has a /, ? or #: write these as %2F, %3F and %23, or give the password by "
            "--mqtt-password-file"
        )
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    if not host or port == 0 or not place.isprintable() or " " in place:
        raise InputError(f"it has no host and port that can be read, {EXPECTED}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InputError(f"it has something behind host and port, {EXPECTED}; the topic goes by --mqtt-topic")
    user, colon, password = login.partition(":")
    if colon and not user:
        raise InputError(f"it has a password and no user, {EXPECTED}")
    return host, port or PORTS[address.scheme], unquote(user) or None, unquote(password) if colon else None


def _check_package() -> None:
    try:
        import paho.mqtt.client  # noqa: F401
    except ModuleNotFoundError as exc:
        raise InputError(
            '--mqtt needs the package paho-mqtt, which is not here: pip install "pedsam[mqtt]"'
        ) from exc


def _password(path: Path, user: str | None, in_address: str | None) -> str:
    if user is None:
        raise InputError(f"--mqtt-password-file {path} is for a user, and --mqtt names none; {EXPECTED}")
    if in_address is not None:
        raise InputError(f"--mqtt has a password, and {path} of --mqtt-password-file another one; give one")
    password = read_text(path, "file of --mqtt-password-file", _MAX_PASSWORD_BYTES).rstrip("\r\n")
    if not password:
        raise InputError(f"{path} of --mqtt-password-file is empty; write the password into it")
    return password


def _context(ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later, to a broker whose certificate is for its name and signed by `ca`."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:  # ssl.SSLError is one
        raise InputError(
            f"--mqtt-ca {ca} cannot be used ({exc.strerror or exc}); give the certificate, as PEM, of "
            "whoever signed the broker's"
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
