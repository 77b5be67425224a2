"""What hinders a board's docker, and the command that helps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from jetson.board import docker_checks
from jetson.board.facts import BoardFacts
from jetson.board.findings import Finding, Wanted
from jetson.board.sections import Docker, Section, docker
from tests.support.boards import sample

WANTED = Wanted(address="jetson@board")
READY = Docker("ready", "", "29.4.3", ("nvidia", "runc"), "runc", "overlay2", False, "/var/lib/docker")


def facts(state: Docker = READY, **changed: Any) -> BoardFacts:
    known = BoardFacts(user="jetson", home="/home/jetson", docker=state, toolkit_version="1.16.2-1")
    return dataclasses.replace(known, **changed)


def ready(**changed: Any) -> Docker:
    return dataclasses.replace(READY, **changed)


def findings(changed: BoardFacts) -> list[Finding]:
    checks = (
        docker_checks.check_docker,
        docker_checks.check_runtime,
        docker_checks.check_toolkit,
        docker_checks.check_storage_driver,
    )
    return [finding for check in checks for finding in check(changed, WANTED)]


def only(changed: BoardFacts) -> Finding:
    found = [finding for finding in findings(changed) if finding.level != "ok"]
    assert len(found) == 1
    return found[0]


def test_docker_that_is_ready() -> None:
    assert findings(facts()) == [
        Finding("ok", "docker 29.4.3 can be used by jetson"),
        Finding("ok", "docker has the runtime nvidia"),
    ]


def test_docker_that_is_missing() -> None:
    found = only(facts(Docker()))
    assert found.level == "refused"
    assert "apt-get install -y nvidia-container-toolkit docker.io && sudo nvidia-ctk" in found.fix


def said(begins: str) -> Docker:
    line = next(line for line in sample("docker-errors.txt").splitlines() if line.startswith(begins))
    return docker(Section(1, line), Section())


def test_docker_without_permission() -> None:
    found = only(facts(said("permission denied")))
    assert found.level == "refused"
    assert found.fix == "ssh -t jetson@board 'sudo usermod -aG docker jetson'"


def test_membership_that_this_connection_does_not_have_yet() -> None:
    found = only(facts(said("permission denied"), registered_groups=("jetson", "docker"), groups=("jetson",)))
    assert found.level == "refused"
    assert "run the command again" in found.what
    assert found.fix == ""


def test_member_who_is_denied_all_the_same() -> None:
    groups = ("jetson", "docker")
    assert "usermod" in only(facts(said("permission denied"), registered_groups=groups, groups=groups)).fix


def test_docker_that_is_down() -> None:
    found = only(facts(said("docker: Cannot connect")))
    assert found.level == "refused"
    assert "Is the docker daemon running?" in found.what
    assert "sudo systemctl enable --now docker" in found.fix


@pytest.mark.parametrize("begins", ["docker: unknown server OS", "Error response from daemon: Get"])
def test_docker_that_fails_otherwise(begins: str) -> None:
    found = only(facts(said(begins)))
    assert found.level == "refused"
    assert begins in found.what
    assert "journalctl -u docker" in found.fix


def test_runtime_that_is_not_configured() -> None:
    found = only(facts(ready(runtimes=("runc",))))
    assert found.level == "refused"
    configure = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    assert found.fix == f"ssh -t jetson@board '{configure}'"


def test_runtime_whose_package_is_missing() -> None:
    found = only(facts(ready(runtimes=("runc",)), toolkit_version=None))
    assert "apt-get install -y nvidia-container-toolkit && sudo nvidia-ctk runtime configure" in found.fix


def test_runtime_that_containerd_hides() -> None:
    store = ready(runtimes=("runc",), containerd_store=True)
    found = only(facts(store, docker_configured_runtimes=("nvidia",)))
    assert '"features": {"containerd-snapshotter": false}' in found.what
    assert "nvidia-ctk" in only(facts(store)).fix  # not configured at all


def test_runtime_that_docker_was_not_restarted_for() -> None:
    found = only(facts(ready(runtimes=("runc",)), docker_configured_runtimes=("nvidia",)))
    assert "sudo systemctl restart docker" in found.fix
    assert "containerd" not in found.what


def test_runtime_of_a_rootless_docker() -> None:
    found = only(facts(ready(runtimes=("runc",), rootless=True)))
    assert found.fix == "ssh jetson@board 'docker context use default'"


def test_runtime_that_is_there_is_enough() -> None:
    assert [finding.level for finding in findings(facts(toolkit_version=None))] == ["ok", "ok"]


@pytest.mark.parametrize("version", ["1.9.0-1", "1.2.1", "1:1.9.9", "0.11.0"])
def test_toolkit_that_is_too_old(version: str) -> None:
    found = only(facts(toolkit_version=version))
    assert found.level == "refused"
    assert f"nvidia-container-toolkit {version} is too old; 1.10 or later is needed" == found.what


@pytest.mark.parametrize("version", ["1.10.0-1", "1.16.2-1", "1:1.14.2", "2.0.0", "unknown"])
def test_toolkit_that_is_new_enough(version: str) -> None:
    assert [finding.level for finding in findings(facts(toolkit_version=version))] == ["ok", "ok"]


def test_storage_driver_that_copies_every_layer() -> None:
    found = only(facts(ready(storage_driver="vfs")))
    assert found.level == "warning"
    assert "overlay2" in found.what
