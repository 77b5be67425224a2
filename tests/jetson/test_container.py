"""container.sh, which starts a version's container, with a docker that only writes down its words."""

from __future__ import annotations

import grp
import os
import subprocess
from pathlib import Path

import pytest

from jetson.versions import FILES

DOCKER = """#!/bin/sh
[ "$1 $2" != "image inspect" ] || { echo sha256:0123; exit 0; }
[ "$1" != stop ] || exit 1
printf '%s\\n' "$@" > "$PEDSAM_BOARD_ROOT/words"
[ "$1" != rm ]
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board with one version, two cameras and no tegrastats; `words` will hold docker's arguments."""
    version = tmp_path / "home/pedsam/versions/abc"
    version.mkdir(parents=True)
    (tmp_path / "home/pedsam/state").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "dev").mkdir()
    for name in ("video0", "video12", "null"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "dev/v4l").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").touch()
    (version / "container.sh").write_bytes((FILES / "container.sh").read_bytes())
    (version / "version.env").write_text(
        "IMAGE=pedsam-flashed:1\nMEMORY_MB=6000\nRUN_ARGUMENTS='run --config /pedsam/config/edge.toml'\n"
    )
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    (tmp_path / "bin/sleep").write_text('#!/bin/sh\necho "$1" >> "$PEDSAM_BOARD_ROOT/slept"\n')
    (tmp_path / "bin/sleep").chmod(0o755)
    return tmp_path


def container(board: Path, *words: str) -> list[str]:
    """The arguments of docker after `container.sh words`."""
    script = board / "home/pedsam/versions/abc/container.sh"
    environment = {"PATH": f"{board}/bin:/usr/bin:/bin", "PEDSAM_BOARD_ROOT": str(board)}
    subprocess.run(["/bin/sh", str(script), *words], env=environment, check=True)
    return (board / "words").read_text().splitlines()


def test_the_service_gets_gpu_cameras_and_its_folders(board: Path) -> None:
    words = container(board, "service")
    version, state = board / "home/pedsam/versions/abc", board / "home/pedsam/state"
    image = words.index("pedsam-flashed:1")
    assert words[image + 1 :] == ["run", "--config", "/pedsam/config/edge.toml"]
    flags = words[1:image]
    assert {flag for flag in flags if flag.startswith("--device")} == {
        f"--device={board}/dev/video0",
        f"--device={board}/dev/video12",
    }
    assert {flag for flag in flags if flag.startswith("--volume")} == {
        "--volume=/tmp:/tmp",
        f"--volume={board}/dev/v4l:/dev/v4l:ro",
        f"--volume={board}/etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        f"--volume={version}/bundle:/pedsam/bundle",
        f"--volume={version}/config:/pedsam/config:ro",
        f"--volume={version}/keys:/pedsam/keys:ro",
        f"--volume={state}:/pedsam/state",
    }
    for flag in (
        "--init",  # what alive.sh of the image relies on
        "--runtime=nvidia",
        "--network=host",
        "--cap-drop=ALL",
        "--memory=6000m",
        f"--user={os.getuid()}:{os.getgid()}",
        f"--group-add={grp.getgrnam('video').gr_gid}",
        "--env=PEDSAM_IMAGE=sha256:0123",
        "--rm",
        "--name=pedsam",
    ):
        assert flag in flags
    assert not any("restart" in flag for flag in flags)


def test_without_systemd_docker_starts_it_again(board: Path) -> None:
    words = container(board, "start")
    assert {"--detach", "--restart=always", "--name=pedsam", "--pull=never"} <= set(words)
    assert "--rm" not in words


def test_building_the_smoke_test_and_measuring_are_containers_of_their_own(board: Path) -> None:
    words = container(board, "build", "--for", "edge")
    assert words[-4:] == ["pedsam-flashed:1", "build", "--for", "edge"]
    assert {"--rm", "--name=pedsam-build", "--no-healthcheck"} <= set(words)
    words = container(board, "smoke", "--box", "1,2,3,4")
    assert words[-4:] == ["pedsam-flashed:1", "run", "--box", "1,2,3,4"]
    words = container(board, "bench", "--runs", "3")
    assert words[-4:] == ["pedsam-flashed:1", "bench", "--runs", "3"]
    assert {"--rm", "--name=pedsam-bench", "--no-healthcheck"} <= set(words)


def test_a_service_that_keeps_failing_waits_longer_each_time(board: Path) -> None:
    for _ in range(10):
        container(board, "service")
    waited = [int(line) for line in (board / "slept").read_text().splitlines()]
    assert waited == [0, 1, 4, 9, 16, 25, 36, 49, 60, 60]
    starts = board / "home/pedsam/state/starts"
    count, last = map(int, starts.read_text().split())
    starts.write_text(f"{count} {last - 301}\n")
    container(board, "service")
    assert (board / "slept").read_text().splitlines()[-1] == "0"


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "1", "1 x", "-3 5"])
def test_a_damaged_count_of_failures_keeps_nothing_from_starting(board: Path, text: str) -> None:
    starts = board / "home/pedsam/state/starts"
    starts.write_text(text)
    assert "run" in container(board, "service")
    count, last = map(int, starts.read_text().split())
    assert count == 0
    assert last > 1
