"""docs/service/: the unit, the compose file and the configurations of two cameras do what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import pedsam
from runtime.cli import command as run
from runtime.edge_toml import read_edge
from tests.support.documents import ROOT, Document
from tests.support.keys import keys_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SERVICE = ROOT / "docs/service"
UNIT = (SERVICE / "pedsam@.service").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile.edge").read_text(encoding="utf-8")
COMPOSE: Mapping[str, Any] = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
CAMERAS = ("door", "yard")
OPTIONS = {str(parameter.name): parameter for parameter in run.params}
PAGE = Document.read("docs/home-systems.md")
cameras = pytest.mark.parametrize("camera", CAMERAS)


def setting(name: str) -> list[str]:
    """The values that the unit gives a setting."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def configuration(camera: str, as_a_user_may: bool = True) -> str:
    """The edge.toml of a camera, also with what stands behind a # because it needs sites."""
    text = (SERVICE / camera / "edge.toml").read_text(encoding="utf-8")
    return re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE) if as_a_user_may else text


def values(camera: str) -> dict[str, Any]:
    return {
        key: value for table in tomllib.loads(configuration(camera)).values() for key, value in table.items()
    }


def test_every_camera_has_a_configuration_and_a_service_of_its_own() -> None:
    folders = tuple(sorted(path.name for path in SERVICE.iterdir() if path.is_dir()))
    assert folders == CAMERAS == tuple(sorted(COMPOSE["services"]))


def test_two_cameras_share_nothing_that_a_run_writes_or_listens_on() -> None:
    one, other = (values(camera) for camera in CAMERAS)
    for key in ("state", "ledger", "preview", "mjpeg", "mqtt_topic", "source"):
        assert one[key] != other[key], key
    ports = [each[key] for each in (one, other) for key in ("preview", "mjpeg")]
    assert len(set(ports)) == len(ports)


@cameras
@pytest.mark.parametrize("with_sites", [False, True])
def test_a_dry_run_with_the_units_own_line_finds_nothing_wrong(
    camera: str, with_sites: bool, tmp_path: Path
) -> None:
    """Below a folder of its own in the place of /."""
    here = tmp_path / "etc/pedsam" / camera
    here.mkdir(parents=True)
    for folder in ("var/lib/pedsam", "run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/lib/pedsam" / camera).mkdir()  # StateDirectory=
    (tmp_path / f"run/pedsam-{camera}").mkdir()  # RuntimeDirectory=
    text = configuration(camera, with_sites).replace('"/var/lib', f'"{tmp_path}/var/lib')
    (here / "edge.toml").write_text(text)
    (here / "mqtt_password").write_text("s3cret\n")
    if with_sites:
        keys_for(here)
    line = setting("ExecStart")[0].replace("%i", camera)
    words = [re.sub("^/(?=etc|run)", f"{tmp_path}/", word) for word in shlex.split(line)[1:]]
    result = CliRunner().invoke(
        pedsam.main, [*words, *(["--accept-exposure"] if with_sites else []), "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    assert result.output == "nothing is wrong with these options and files\n"


def test_the_unit_makes_the_folders_that_a_run_writes_into() -> None:
    for camera in CAMERAS:
        made = {
            "/var/lib/" + setting("StateDirectory")[0].replace("%i", camera),
            "/run/" + setting("RuntimeDirectory")[0].replace("%i", camera),
        }
        heartbeat = re.findall(r"--heartbeat (\S+)", setting("ExecStart")[0])[0].replace("%i", camera)
        written = [values(camera)["state"], values(camera)["ledger"], heartbeat]
        assert {str(Path(path).parent) for path in written} == made


def test_the_watchdog_waits_longer_than_a_run_that_moves_is_silent() -> None:
    """It says so every two seconds once it has begun, and takes a while to load before."""
    assert int(setting("WatchdogSec")[0]) >= 20
    assert setting("NotifyAccess") == ["main"]


SYSTEMD_ANALYZE = shutil.which("systemd-analyze") or "systemd-analyze"


@pytest.mark.systemd
def test_systemd_takes_the_unit_and_finds_it_well_shut_in(tmp_path: Path) -> None:
    there = tmp_path / "pedsam"
    there.write_text("#!/bin/sh\n")
    there.chmod(there.stat().st_mode | stat.S_IXUSR)
    unit = tmp_path / "pedsam@door.service"
    unit.write_text(UNIT.replace("/opt/pedsam/bin/pedsam", str(there)))
    done = subprocess.run([SYSTEMD_ANALYZE, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    line = [
        SYSTEMD_ANALYZE,
        "security",
        "--offline=yes",
        "--threshold=25",
        str(unit),
    ]  # of 100: fully exposed
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


@cameras
def test_a_service_of_compose_runs_what_is_mounted_there(camera: str) -> None:
    service = COMPOSE["services"][camera]
    mounts = [volume.split(":") for volume in service["volumes"]]
    name, *words = service["command"]
    assert name == "run"
    given, rest, _ = run.make_parser(click.Context(run)).parse_args(list(words))
    assert not rest
    folders = {inside: outside for outside, inside, *_ in mounts}
    config = Path(given["config"])
    assert (SERVICE / folders[str(config.parent)] / config.name).is_file()
    assert ["ro"] in [rest for _, inside, *rest in mounts if inside == str(config.parent)]
    kept = {str(Path(values(camera)[key]).parent) for key in ("state", "ledger")}
    (state,) = kept
    assert folders[state] in COMPOSE["volumes"]
    assert state in DOCKERFILE  # so that a new volume belongs to the container's user
    assert read_edge(SERVICE / camera / "edge.toml", OPTIONS)["source"]
    devices = service.get("devices", [])
    assert (values(camera)["source"] in devices) == values(camera)["source"].startswith("/dev/")


@cameras
def test_a_container_has_no_more_than_it_needs(camera: str) -> None:
    service = COMPOSE["services"][camera]
    assert service["user"].split(":")[0] == re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[0]
    assert service["read_only"] is service["init"] is True  # init: what alive.sh relies on
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (heartbeat,) = re.findall(r"PEDSAM_RUN_HEARTBEAT=(\S+)", DOCKERFILE)
    assert f"{Path(heartbeat).parent}:mode=1777" in service["tmpfs"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108
    assert not service.get("privileged")
    assert not service.get("ports")  # with the host's network they would be ignored
    assert service["network_mode"] == "host"


def test_compose_builds_what_is_there() -> None:
    for service in COMPOSE["services"].values():
        context = (SERVICE / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_the_image_runs_the_model_that_it_holds() -> None:
    """mini, which comes with the package."""
    assert "PEDSAM_RUN_BUNDLE" not in DOCKERFILE
    assert "\nCOPY stages stages\n" in DOCKERFILE
    ignored = (ROOT / "Dockerfile.edge.dockerignore").read_text(encoding="utf-8")
    assert "mini" not in ignored
    assert '".[edge,mqtt]"' in DOCKERFILE


def test_the_service_is_installed_where_it_may_read() -> None:
    """Whole, from a wheel: not as links to a clone, which may lie in a home that the unit does not see.

    That pedsam runs from its wheel without a clone is held by tests/test_wheel.py.
    """
    assert setting("ProtectHome") == ["yes"]
    recipe = PAGE.text.partition("## As a service of systemd")[2].partition("\n## ")[0]
    lines = recipe.split("```")[1].splitlines()
    pip = Path(setting("ExecStart")[0].split()[0]).with_name("pip")
    installing = [line for line in lines if "pip install" in line]
    assert installing == [line for line in lines if line.startswith(f"sudo {pip} ")]
    (line,) = installing
    wheels = re.search(r"pip wheel --no-deps --wheel-dir (\S+) \.$", "\n".join(lines), re.MULTILINE)
    assert wheels is not None
    assert line.endswith(f' install "$(ls {wheels[1]}/pedsam-*.whl)[edge,mqtt]"')


def test_the_page_shows_these_files() -> None:
    links = {link.partition("#")[0] for link in PAGE.links}
    assert {"service/pedsam@.service", "service/compose.yaml", "service/door/edge.toml"} <= links
    assert "../Dockerfile.edge" in links
