"""What a version consists of, and its ID."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from jetson.versions import KEY_FILES, KEY_FOLDERS, STATE_FILES, Service, Version, make_version, read_edge
from runtime.options import NOT_IN_FILE, TABLES
from runtime.sites.config import read_sites
from stages.errors import InputError
from stages.options import PATH

EDGE = """
[source]
source = "csi://0"
[loop]
prompts = "prompts.json"
[sinks]
preview = 8080
preview_keys = "keys/preview"
out = "out"
trace = "trace.json"
"""
SITES = """
[[site]]
name = "a"
operator = "alpha \\"one\\""
url = "https://203.0.113.7:8443"
token_file = "keys/a/token"
ca = "keys/a/ca.pem"
cert = "keys/a/client.pem"
key = "keys/a/client.key"
cap = 5

[[site]]
name = "b"
operator = "beta"
url = "https://203.0.113.8:8443"
token_file = "../b-token"
spare = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with edge.toml, sites.toml and the files they name."""
    here = tmp_path / "setup"
    for name in ("keys/a/token", "keys/a/ca.pem", "keys/a/client.pem", "keys/a/client.key", "../b-token"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(f"{name} content\n")
    (here / "keys/preview").mkdir()
    for name in ("server.pem", "server.key", "token", "ca.key", "client_ca.pem"):
        (here / "keys/preview" / name).write_text(f"preview {name}\n")
    (here / "edge.toml").write_text(EDGE)
    (here / "sites.toml").write_text(SITES)
    (here / "prompts.json").write_text("[]")
    return here


def version(folder: Path, **changes: Any) -> Version:
    edge = read_edge(folder / "edge.toml", folder / "sites.toml")
    arguments: dict[str, Any] = {
        "bundle": {"bundle.json": "0" * 64},
        "image": "pedsam-flashed:1",
        "memory_mb": 6000,
        "service": Service("nvidia", "/home/nvidia/pedsam", None),
    }
    return make_version(edge, **arguments | changes)


def test_every_path_in_edge_toml_is_known() -> None:
    """What edge.toml names is called otherwise in the container: a new key needs a place there."""
    paths = {str(option.name) for table in TABLES.values() for option in table if option.type is PATH}
    paths -= {str(option.name) for option in NOT_IN_FILE}
    others = {"bundle", "sites", "ledger", "heartbeat", "prompts", "state"}
    assert {*STATE_FILES, *KEY_FOLDERS, *KEY_FILES} == paths - others


def test_sites_keep_what_they_say_and_find_their_files(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    with tarfile.open(fileobj=io.BytesIO(version(folder).tar())) as tar:
        tar.extractall(there, filter="data")
        modes = {entry.name: entry.mode for entry in tar}
    before = read_sites(folder / "sites.toml")
    after = read_sites(there / "config/sites.toml")
    assert [(s.name, s.operator, s.url, s.token, s.cap, s.spare) for s in after] == [
        (s.name, s.operator, s.url, s.token, s.cap, s.spare) for s in before
    ]
    assert after[0].key is not None
    assert after[0].key.read_text() == "keys/a/client.key content\n"
    assert {name: mode for name, mode in modes.items() if mode != 0o600} == {"container.sh": 0o700}


def test_keys_of_authorities_stay_here(folder: Path) -> None:
    names = {name for name in version(folder).files if name.startswith("keys/preview_keys/")}
    assert names == {f"keys/preview_keys/{name}" for name in ("server.pem", "server.key", "token")}


def test_what_it_takes_to_talk_to_a_broker_goes_along(folder: Path) -> None:
    (folder / "password").write_text("s3cret\n")
    config = folder / "edge.toml"
    mqtt = 'mqtt = "mqtts://me@broker"\nmqtt_password_file = "password"\nmqtt_ca = "keys/a/ca.pem"\n'
    config.write_text(f"{config.read_text()}[mqtt]\n{mqtt}")
    made = version(folder)
    assert made.files["keys/mqtt_password_file"] == b"s3cret\n"
    assert made.files["keys/mqtt_ca"] == b"keys/a/ca.pem content\n"
    environment = made.files["version.env"].decode()
    assert "--mqtt-password-file /pedsam/keys/mqtt_password_file" in environment
    assert "--mqtt-ca /pedsam/keys/mqtt_ca" in environment
    assert "s3cret" not in environment


def test_a_run_finds_its_files_in_the_container(folder: Path) -> None:
    environment = version(folder).files["version.env"].decode()
    assert environment.splitlines()[:2] == ["IMAGE=pedsam-flashed:1", "MEMORY_MB=6000"]
    for words in (
        "--config /pedsam/config/edge.toml",
        "--sites /pedsam/config/sites.toml --ledger /pedsam/state/ledger.json",
        "--state /pedsam/state/objects.json --prompts /pedsam/config/prompts.json",
        "--out /pedsam/state/out --trace /pedsam/state/trace.json",
        "--preview-keys /pedsam/keys/preview_keys",
    ):
        assert words in environment


def test_a_long_address_is_no_file(folder: Path) -> None:
    """Longer than a name may be, as those with tokens are."""
    config = folder / "edge.toml"
    config.write_text(config.read_text().replace("csi://0", f"rtsp://cam/{'x' * 300}"))
    assert read_edge(config, folder / "sites.toml").source_file is None


def test_a_source_that_is_a_file_goes_along(folder: Path) -> None:
    (folder / "a clip.MP4").write_bytes(b"film")
    (folder / "edge.toml").write_text(EDGE.replace("csi://0", "a clip.MP4"))
    made = version(folder)
    assert made.files["config/source.mp4"] == b"film"
    assert "--source /pedsam/config/source.mp4" in made.files["version.env"].decode()
    assert "--state" not in made.files["version.env"].decode()
    (folder / "edge.toml").write_text(EDGE.replace('"csi://0"', '"a clip.MP4"\nrealtime = true'))
    assert "--state" in version(folder).files["version.env"].decode()


def test_the_id_follows_what_is_flashed(folder: Path) -> None:
    first = version(folder)
    assert version(folder).id == first.id
    others = [
        version(folder, image="pedsam-flashed:2"),
        version(folder, memory_mb=5000),
        version(folder, bundle={"bundle.json": "1" * 64}),
        version(folder, service=None),
        version(folder, service=Service("nvidia", "/home/nvidia/pedsam", "25W")),
        version(folder, allow_undistilled=True),
    ]
    (folder / "keys/a/token").write_text("another\n")
    others.append(version(folder))
    assert len({first.id, *(other.id for other in others)}) == len(others) + 1


def test_the_same_thing_from_another_folder_is_the_same_version(folder: Path, tmp_path: Path) -> None:
    first = version(folder)
    moved = folder.rename(tmp_path / "moved")
    assert version(moved).id == first.id


def test_the_unit_is_filled_in() -> None:
    files = Service("nvidia", "/home/nvidia/pedsam", "25W").files()
    text = files["pedsam.service"].decode().partition("[Unit]")[2]
    assert "$" not in text
    assert "\nUser=nvidia\n" in text
    assert "\nExecStart=/home/nvidia/pedsam/current/container.sh service\n" in text
    assert (
        "\nExecStartPre=+-/usr/bin/timeout -k 5 60 /bin/sh /home/nvidia/pedsam/current/power.sh boot 25W\n"
        in text
    )
    assert b"boot NAME" in files["power.sh"]
    without = Service("a", "/b", None).files()
    assert without.keys() == {"pedsam.service"}
    assert b"ExecStartPre" not in without["pedsam.service"]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("edge.toml", "[sinks]\npreview = 1\n", "names no source"),
        ("edge.toml", '[source]\nsource = "0"\n', "says neither where to click nor what to segment"),
        ("edge.toml", "[source\n", "edge.toml cannot be read"),
        ("sites.toml", "[site]\n", r"must hold one \[\[site\]\] table a site"),
        ("sites.toml", '[[site]]\nname = "a"\nca = "none.pem"\n', "ca of site a: .*none.pem cannot be read"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(folder: Path, file: str, text: str, says: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=says):
        version(folder)
