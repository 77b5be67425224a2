"""What hinders a board's docker from running the edge, as data: see `checks`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from jetson.board.facts import BoardFacts
from jetson.board.findings import Finding, Wanted

TOOLKIT = (1, 10)  # older ones do not know how a Jetson's driver gets into a container
_TOOLKIT_PACKAGE = "sudo apt-get update && sudo apt-get install -y nvidia-container-toolkit"
_CONFIGURE = "sudo nvidia-ctk runtime configure --runtime=docker"
_RESTART = "sudo systemctl restart docker"


def check_docker(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """Docker is there, runs, and this user may use it."""
    docker = facts.docker
    if docker.state == "ready":
        yield Finding("ok", f"docker {docker.version} can be used by {facts.user}")
    elif docker.state == "missing":
        fix = f"{_TOOLKIT_PACKAGE} docker.io && {_CONFIGURE} && {_RESTART}"
        yield Finding("refused", "the board has no docker", wanted.command(fix))
    elif docker.state == "denied":
        yield _denied(facts, wanted)
    elif docker.state == "down":
        fix = "sudo systemctl enable --now docker || sudo journalctl -u docker -n 30 --no-pager"
        yield Finding("refused", f"docker does not run ({docker.error})", wanted.command(fix))
    else:
        fix = wanted.command("sudo journalctl -u docker -n 30 --no-pager")
        yield Finding("refused", f"docker cannot be used ({docker.error})", fix)


def _denied(facts: BoardFacts, wanted: Wanted) -> Finding:
    if "docker" in facts.registered_groups and "docker" not in facts.groups:
        what = f"{facts.user} is in the group docker only since this connection was opened"
        return Finding("refused", f"{what}; run the command again")
    add = wanted.command(f"sudo usermod -aG docker {shlex.quote(facts.user)}")
    what = f"{facts.user} may not use docker; add the user to the group docker and run the command again"
    return Finding("refused", what, add)


def check_runtime(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The runtime `nvidia` brings the GPU's driver into a container; `--gpus` alone does not, on a Jetson."""
    if facts.docker.state != "ready":
        return
    if "nvidia" in facts.docker.runtimes:
        yield Finding("ok", "docker has the runtime nvidia")
    elif facts.docker.rootless:
        what = "docker runs without root (rootless), where no container has the GPU; use the system's"
        yield Finding("refused", what, wanted.command("docker context use default"))
    elif facts.docker.containerd_store and "nvidia" in facts.docker_configured_runtimes:
        what = (
            "docker ignores the runtime nvidia of /etc/docker/daemon.json while containerd keeps its images"
        )
        turn_off = 'add "features": {"containerd-snapshotter": false} there'
        fix = wanted.command(f"sudoedit /etc/docker/daemon.json && {_RESTART}")
        yield Finding("refused", f"{what}; {turn_off}", fix)
    else:
        # It can be there without dpkg knowing, but then configuring it works as well.
        first = "" if facts.toolkit_version else f"{_TOOLKIT_PACKAGE} && "
        what = "docker has no runtime nvidia, without which a container has no GPU"
        yield Finding("refused", what, wanted.command(f"{first}{_CONFIGURE} && {_RESTART}"))


def check_toolkit(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """A version of NVIDIA's container toolkit that knows Jetson."""
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", facts.toolkit_version or "")
    if found and (int(found[1]), int(found[2])) < TOOLKIT:
        needed = ".".join(map(str, TOOLKIT))
        what = f"nvidia-container-toolkit {facts.toolkit_version} is too old; {needed} or later is needed"
        yield Finding("refused", what, wanted.command(f"{_TOOLKIT_PACKAGE} && {_RESTART}"))


def check_storage_driver(facts: BoardFacts, wanted: Wanted) -> Iterator[Finding]:
    """The driver vfs holds a full copy of the image for each of its layers."""
    if facts.docker.storage_driver == "vfs":
        what = "docker's storage driver is vfs, which takes many times an image's size"
        fix = wanted.command(f"sudoedit /etc/docker/daemon.json && {_RESTART}")
        yield Finding(
            "warning", f'{what}; "storage-driver": "overlay2" in /etc/docker/daemon.json is better', fix
        )
