"""What is known to be wrong with a broker's options before anybody is asked; no sentence shows a password."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pedsam
from runtime.mqtt import MqttOptions, check_mqtt
from stages.address import Address
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.edge import write_photo
from tests.support.keys import keys_for

SECRET = "s3cret"  # noqa: S105


def options(address: str, **more: Any) -> MqttOptions:
    return MqttOptions(Address(address), **more)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("mqtt://127.0.0.1", ("127.0.0.1", 1883, None, None)),
        ("mqtts://ha.local", ("ha.local", 8883, None, None)),
        ("mqtts://me@ha.local:9/", ("ha.local", 9, "me", None)),
        ("mqtt://me:s3cret@[::1]:1884", ("::1", 1884, "me", "s3cret")),
        ("mqtt://me:a%2Fb%40c@localhost", ("localhost", 1883, "me", "a/b@c")),
        ("mqtt://me:a@b@localhost", ("localhost", 1883, "me", "a@b")),
        ("mqtt://me:@localhost", ("localhost", 1883, "me", "")),
    ],
)
def test_addresses_of_brokers(address: str, found: tuple[Any, ...]) -> None:
    broker = check_mqtt(options(address))
    assert (broker.host, broker.port, broker.user, broker.password) == found
    assert (broker.tls is not None) == address.startswith("mqtts:")
    assert SECRET not in f"{broker} {broker!r} {options(address)!r} {broker.shown}"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://ha.local", "no address of a broker, expected mqtt://user@host:port"),
        ("ha.local", "no address of a broker"),
        ("me:s3cret@ha.local", "no address of a broker"),
        ("mqtt://", "no host and port that can be read"),
        ("mqtt://me@:1883", "no host and port that can be read"),
        ("mqtt://ha.local:0", "no host and port that can be read"),
        ("mqtt://ha.local:99999", "no host and port that can be read"),
        ("mqtt://[::1", "no host and port that can be read"),
        ("mqtt://:s3cret@ha.local", "a password and no user"),
        ("mqtt://me:s3cret/1@ha.local", "write these as %2F"),
        ("mqtt://me:s3cret?1@ha.local", "write these as %2F"),
        ("mqtt://ha.local/pedsam", "the topic goes by --mqtt-topic"),
        ("mqtt://ha.local?x=s3cret", "the topic goes by --mqtt-topic"),
        ("mqtt://me:s3cret@ha.local", "anyone on the way could read the password"),
    ],
)
def test_what_cannot_be_used_is_told_and_no_password(address: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_mqtt(options(address))
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_plain_mqtt_leaves_the_machine_only_when_it_may() -> None:
    assert check_mqtt(options("mqtt://ha.local", insecure=True)).tls is None


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET} \n")
    broker = check_mqtt(options("mqtt://me@127.0.0.1", password_file=file))
    assert broker.password == f"{SECRET} "  # a blank may be part of it, the end of the line is not
    for given, words in (
        (options("mqtt://127.0.0.1", password_file=file), "--mqtt names none"),
        (options("mqtt://me:x@127.0.0.1", password_file=file), "give one"),
        (options("mqtt://me@127.0.0.1", password_file=tmp_path / "no"), "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            check_mqtt(given)
    file.write_text("\n")
    with pytest.raises(InputError, match="is empty; write the password into it"):
        check_mqtt(options("mqtt://me@127.0.0.1", password_file=file))


def test_an_authority_is_a_certificate_and_for_tls(tmp_path: Path) -> None:
    ca = keys_for(tmp_path).parent / "edge/a/ca.pem"
    assert check_mqtt(options("mqtts://ha.local", ca=ca)).tls is not None
    with pytest.raises(InputError, match="--mqtt-ca is for TLS"):
        check_mqtt(options("mqtt://127.0.0.1", ca=ca))
    for wrong in (tmp_path / "no.pem", tmp_path / "sites.toml"):
        with pytest.raises(InputError, match=f"--mqtt-ca {wrong} cannot be used"):
            check_mqtt(options("mqtts://ha.local", ca=wrong))


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(InputError, match=r'paho-mqtt, which is not here: pip install "pedsam\[mqtt\]"'):
        check_mqtt(options("mqtt://127.0.0.1"))


def dry_run(bundle: Bundle, folder: Path, *words: str | Path, **environment: str) -> Result:
    picture = write_photo(folder / "cup.png")
    line = ["run", "--bundle", bundle.path, "--source", picture, "--out", folder / "out", "--dry-run"]
    line += ["--allow-undistilled", "--point", "30,30", *words]
    return CliRunner().invoke(pedsam.main, list(map(str, line)), env=environment)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mqtt", "mqtt://me:s3cret@127.0.0.1"), "nothing is wrong with these options and files"),
        (("--mqtt", "mqtt://me:s3cret@ha.local"), "anyone on the way could read the password"),
        (("--mqtt", "mqtt://me:s3cret@ha.local", "--mqtt-insecure"), "nothing is wrong with these"),
        (("--mqtt", "rtsp://me:s3cret@ha.local"), "Invalid value for '--mqtt': it is no address of a broker"),
        (
            ("--mqtt", "mqtt://127.0.0.1", "--mqtt-topic", "a/#"),
            "Invalid value for '--mqtt-topic': a topic has",
        ),
        (("--mqtt-topic", "a"), "warning: --mqtt-topic does nothing without --mqtt"),
        (("--mjpeg", "0", "--mjpeg-host", "192.0.2.1"), "is not a loopback address"),
        (("--mjpeg-width", "640"), "warning: --mjpeg-width does nothing without --mjpeg"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_dry_run_looks_at_them(
    mini_bundle: Bundle, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    result = dry_run(mini_bundle, tmp_path, *words)
    assert told in result.output
    assert SECRET not in result.output
    assert "Traceback" not in result.output


def test_a_run_does_not_write_over_its_password(mini_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    words = ("--mqtt", "mqtt://me@127.0.0.1", "--mqtt-password-file", file, "--trace", file)
    result = dry_run(mini_bundle, tmp_path, *words)
    assert result.exit_code == 1
    assert "the file of --mqtt-password-file" in result.output
    assert file.read_text() == SECRET


def test_a_file_of_options_hides_a_broker_of_the_wrong_type(mini_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(f'[mqtt]\nmqtt = ["mqtt://me:{SECRET}@127.0.0.1"]\n')
    result = dry_run(mini_bundle, tmp_path, "--config", tmp_path / "edge.toml")
    assert "mqtt in [mqtt] is a list or a table, expected text" in result.output
    assert SECRET not in result.output
