"""look.sh run for real: on this machine, and on boards made of files from what real boards printed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetson.board.facts import BoardFacts, look, read_facts
from jetson.board.releases import L4T
from jetson.board.sections import Camera
from jetson.connection import SCRIPTS, BoardError
from tests.support.boards import BOARDS, DOCKER_GID, RENDER_GID, USER, VIDEO_GID, FakeBoard, LocalBoard

WORD = "5f2c9d"
GIB = 1024**3


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "board")


def look_at(board: FakeBoard) -> BoardFacts:
    return look(board.connection())


def printed(board: FakeBoard) -> str:
    return board.connection().script("look.sh", WORD).out


# name -> name of the board, L4T, memory in GB, kernel, swap
EXPECTED = {
    "orin-nano-super": ("Jetson Orin Nano 8GB Super", L4T(36, 4, 3), "5.15.148-tegra", True),
    "orin-nano": ("Jetson Orin Nano 8GB", L4T(36, 4, 0), "5.15.148-tegra", True),
    "orin-nx": ("Jetson Orin NX 16GB", L4T(36, 4, 3), "5.15.148-tegra", True),
    "agx-orin": ("Jetson AGX Orin 64GB", L4T(36, 4, 4), "5.15.148-tegra", True),
    "jetpack-5": ("Jetson AGX Orin 64GB", L4T(35, 1, 0), "5.10.104-tegra", True),
    "36.3": ("Jetson Orin Nano 8GB", L4T(36, 3, 0), "5.15.136-tegra", True),
    "36.4.7": ("Jetson Orin Nano 8GB Super", L4T(36, 4, 7), "5.15.148-tegra", True),
    "39.2": ("Jetson Orin Nano 8GB Super", L4T(39, 2, 0), "6.8.12-1021-tegra", False),
}


@pytest.mark.parametrize("name", BOARDS)
def test_board(name: str, tmp_path: Path) -> None:
    facts = look_at(FakeBoard(tmp_path / "board", name))
    swap = bool(facts.memory.swap_bytes)
    assert (facts.hardware.name, facts.l4t, facts.kernel, swap) == EXPECTED[name]
    assert facts.hardware.chip == "tegra234"
    assert facts.architecture == "aarch64"


def test_everything_of_a_board_without_trouble(board: FakeBoard) -> None:
    facts = look_at(board)
    assert (facts.user, facts.uid, facts.home, facts.host) == (USER, 1000, str(board.home), "jetson")
    assert (facts.sudo, facts.desktop, facts.default_target) == ("passwordless", False, "multi-user.target")
    assert facts.groups == facts.registered_groups == (USER, "sudo", "video", "render", "docker")
    assert facts.group_ids == {"video": VIDEO_GID, "render": RENDER_GID, "docker": DOCKER_GID}
    assert (facts.video_gid, facts.render_gid) == (VIDEO_GID, RENDER_GID)
    assert (facts.root_writable, facts.home_writable, facts.clock_synchronized) == (True, True, True)
    assert facts.cameras == (
        Camera("/dev/video0", "vi-output, imx219 9-0010", "csi"),
        Camera("/dev/video1", "HD Pro Webcam C920", "usb"),
    )
    assert facts.argus_socket is True
    assert {"/dev/nvmap", "/dev/nvgpu/igpu0/ctrl", "/dev/dri/renderD128", "/dev/video0"} <= set(facts.devices)
    assert (facts.toolkit_version, facts.docker_configured_runtimes) == ("1.16.2-1", ("nvidia",))
    assert (facts.docker.state, facts.docker.version, facts.docker.root) == (
        "ready",
        "29.4.3",
        "/var/lib/docker",
    )


def test_no_fact_is_left_unknown_on_a_board_without_trouble(board: FakeBoard) -> None:
    facts = dataclasses.asdict(look_at(board))
    assert [name for name, value in facts.items() if value is None] == []


def test_group_of_the_gpu_s_nodes_is_that_of_the_files(board: FakeBoard) -> None:
    board.program("stat", "#!/bin/sh\necho 993\n")
    assert look_at(board).render_gid == 993
    board.without("stat")
    assert look_at(board).render_gid == RENDER_GID


def test_memory(board: FakeBoard) -> None:
    board.set_memory(5107, 7620, 3810, 105, 4)
    found = look_at(board).memory
    assert (found.total_bytes, found.available_bytes) == (7620 * 1024**2, 5107 * 1024**2)
    assert (found.swap_bytes, found.largest_block_bytes, found.largest_blocks) == (
        3810 * 1024**2,
        4 * 1024**2,
        105,
    )


def test_clock_is_compared_with_this_machine_s(board: FakeBoard) -> None:
    board.set("clock_offset", -7200)
    offset = look(board.connection(), time.time).clock_offset_s
    assert offset == pytest.approx(-7200, abs=30)


def test_clock_of_1970(board: FakeBoard) -> None:
    board.clock_in_1970(time.time())
    facts = look_at(board)
    assert facts.clock_offset_s is not None
    assert facts.clock_offset_s < -50 * 365 * 86400
    assert facts.clock_synchronized is False


def test_root_that_became_read_only(board: FakeBoard) -> None:
    board.read_only()
    assert look_at(board).root_writable is False


def test_room_is_where_docker_keeps_its_root(board: FakeBoard) -> None:
    board.set_docker(DockerRootDir="/mnt/docker")
    board.write("/mnt/docker/overlay2/l", "")
    board.set_free(40, mnt_docker=300)
    facts = look_at(board)
    assert facts.docker_disk is not None
    assert (facts.docker_disk.mount, facts.docker_disk.free_bytes) == ("/mnt/docker", 300 * GIB)
    assert facts.home_disk is not None
    assert facts.home_disk.free_bytes == 40 * GIB


def test_room_of_a_root_of_docker_that_is_only_configured(board: FakeBoard) -> None:
    board.docker_down()
    board.write("/mnt/docker/overlay2/l", "")
    board.write("/etc/docker/daemon.json", '{\n    "data-root": "/mnt/docker"\n}\n')
    board.set_free(40, mnt_docker=300)
    disk = look_at(board).docker_disk
    assert disk is not None
    assert disk.free_bytes == 300 * GIB


def test_room_where_a_docker_that_is_down_would_have_its_root(board: FakeBoard) -> None:
    board.docker_down()
    board.set_free(40, var_lib_docker=300)
    disk = look_at(board).docker_disk
    assert disk is not None
    assert disk.mount == "/var/lib/docker"


def test_room_for_a_folder_that_does_not_exist_yet(board: FakeBoard) -> None:
    board.set_docker(DockerRootDir="/mnt/nvme/docker")
    board.write("/mnt/fstab", "")
    board.set_free(40, mnt=200)
    disk = look_at(board).docker_disk
    assert disk is not None
    assert disk.free_bytes == 200 * GIB


def test_docker_that_answers_in_plain_text_alone(board: FakeBoard) -> None:
    (board.folder / "bin/docker").rename(board.folder / "bin/docker.plain")
    refuse = 'case "$*" in *--format*) echo "unknown flag: --format" >&2; exit 125 ;; esac'
    board.program("docker", f'#!/bin/sh\n{refuse}\nexec "$0.plain" "$@"\n')
    board.with_containerd_store()
    board.set_docker(DockerRootDir="/mnt/docker")
    board.set_free(40, mnt=200)
    board.write("/mnt/fstab", "")
    facts = look_at(board)
    assert facts.docker_disk is not None
    assert facts.docker_disk.mount == "/mnt"
    found = facts.docker
    assert (found.state, found.containerd_store, found.root) == ("ready", True, "/mnt/docker")
    assert found.runtimes == ("io.containerd.runc.v2", "runc")


def test_docker_without_permission(board: FakeBoard) -> None:
    board.docker_denied()
    facts = look_at(board)
    assert facts.docker.state == "denied"
    assert "permission denied" in facts.docker.error
    assert "docker" not in facts.groups


def test_docker_that_is_down(board: FakeBoard) -> None:
    board.docker_down()
    found = look_at(board).docker
    assert (found.state, found.version) == ("down", "29.4.3")


def test_docker_that_hangs_is_not_waited_for(board: FakeBoard) -> None:
    board.program(
        "timeout",
        '#!/bin/sh\n[ "$3" != 20 ] || exit 124\nshift 3\ncase $1 in docker) exit 124 ;; esac\n"$@"\n',
    )
    found = look_at(board).docker
    assert (found.state, found.error) == ("down", "it did not answer")


def test_docker_without_the_runtime(board: FakeBoard) -> None:
    board.without_nvidia_runtime()
    facts = look_at(board)
    assert "nvidia" not in facts.docker.runtimes
    assert (facts.toolkit_version, facts.docker_configured_runtimes) == (None, ())


def test_sudo_that_needs_a_password(board: FakeBoard) -> None:
    board.sudo_needs_password()
    assert look_at(board).sudo == "password"


def test_root_needs_no_sudo(board: FakeBoard) -> None:
    board.set("user", "root")
    board.sudo_needs_password()
    assert look_at(board).sudo == "root"


def test_desktop(board: FakeBoard) -> None:
    board.with_desktop()
    facts = look_at(board)
    assert (facts.desktop, facts.default_target) == (True, "graphical.target")


def test_board_without_cameras(board: FakeBoard) -> None:
    board.without_cameras()
    facts = look_at(board)
    assert (facts.cameras, facts.argus_socket) == ((), False)


def test_cameras_are_known_without_v4l2_ctl(board: FakeBoard) -> None:
    board.without("v4l2-ctl")
    assert [camera.bus for camera in look_at(board).cameras] == ["csi", "usb"]


def test_camera_s_bus_is_known_by_its_place(board: FakeBoard) -> None:
    board.without_cameras()
    (board.folder / "sys/class/video4linux").mkdir()
    board.add_camera(4, "Camera", "platform/3610000.usb/usb2/2-1", "other")
    assert look_at(board).cameras == (Camera("/dev/video4", "Camera", "usb"),)


def test_package_tells_the_release_where_the_file_is_missing(board: FakeBoard) -> None:
    (board.folder / "etc/nv_tegra_release").unlink()
    assert look_at(board).l4t == L4T(36, 4, 3)


PROGRAMS_THAT_MAY_BE_MISSING = (
    *("docker", "sudo", "systemctl", "timedatectl", "v4l2-ctl", "dpkg-query", "getent", "df", "stat", "id"),
    *("date", "uname", "readlink", "getconf"),
)


@pytest.mark.parametrize("name", PROGRAMS_THAT_MAY_BE_MISSING)
def test_board_is_read_without_a_program(board: FakeBoard, name: str) -> None:
    board.without(name)
    facts = look_at(board)
    assert facts.hardware.name == "Jetson Orin Nano 8GB Super"
    assert facts.l4t == L4T(36, 4, 3)


def test_machine_on_which_every_program_is_missing(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    script = (SCRIPTS / "look.sh").read_text(encoding="utf-8")
    done = subprocess.run(
        [shell, "-c", script, "sh", WORD],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    facts = read_facts(done.stdout, WORD)
    assert (facts.user, facts.l4t, facts.docker.state, facts.sudo) == ("", None, "missing", "missing")
    assert (facts.docker_disk, facts.clock_offset_s, facts.cameras) == (None, None, ())


@pytest.mark.skipif(Path("/proc/device-tree/model").exists(), reason="this machine has a device tree")
def test_this_machine_is_no_jetson() -> None:
    facts = look(LocalBoard(dict(os.environ)))
    assert facts.hardware.chip is None
    assert facts.l4t is None
    assert facts.architecture == os.uname().machine
    assert facts.clock_offset_s == pytest.approx(0, abs=30)
    assert facts.memory.total_bytes


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    noted = folder / "state/scripts"  # where a pretended board may note what was run there
    files = (file for file in folder.rglob("*") if file.is_file() and file != noted)
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_looking_changes_nothing(board: FakeBoard) -> None:
    before = snapshot(board.folder)
    look_at(board)
    assert snapshot(board.folder) == before


def test_file_cannot_imitate_a_section(board: FakeBoard) -> None:
    board.write(
        "etc/nv_tegra_release", f"# R36 (release), REVISION: 4.3\nsudo 0\n\nother sudo 0\n{WORD}sudo 0\n"
    )
    board.sudo_needs_password()
    assert read_facts(printed(board), WORD).sudo == "password"


def test_each_look_has_another_word(board: FakeBoard) -> None:
    board.program("sh", '#!/bin/sh\necho "$4" >>"${0%/*}/../state/words"\nexec /bin/sh "$@"\n')
    for _ in range(2):
        look_at(board)
    words = board.state("words").split()
    assert len(set(words)) == 2
    assert min(map(len, words)) >= 32


def test_control_characters_of_a_board_are_replaced(board: FakeBoard) -> None:
    board.write("proc/device-tree/model", "Jetson\x1b]0;owned\x07\0")
    board.set_docker(ServerVersion="29\x1b[2J", DriverStatus=[], DockerRootDir="/var/\u202edocker")
    facts = look_at(board)
    assert facts.hardware.model == "Jetson?]0;owned?"
    assert (facts.docker.version, facts.docker.root) == ("29?[2J", "/var/?docker")


def test_answer_that_was_cut_off(board: FakeBoard) -> None:
    text = printed(board)
    with pytest.raises(BoardError, match="cut off; run the command again"):
        read_facts(text[: len(text) // 2], WORD)


def test_board_that_cannot_run_the_script(board: FakeBoard) -> None:
    board.program("sh", "#!/bin/sh\necho 'sh: out of memory' >&2\nexit 2\n")
    with pytest.raises(BoardError, match="the board could not be read: sh: out of memory") as caught:
        look_at(board)
    assert caught.value.tail == "sh: out of memory\n"


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return printed(FakeBoard(tmp_path_factory.mktemp("boards") / "board"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_a_board_says_is_read_or_refused(answer: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(answer)))
    end = data.draw(st.integers(begin, min(len(answer), begin + 400)))
    piece = data.draw(st.text() | st.from_regex(r"[0-9]{1,30}|[-0-9.GK/ \t:{}\[\]\"]{1,30}", fullmatch=True))
    try:
        facts = read_facts(answer[:begin] + piece + answer[end:], WORD, 0.0)
    except BoardError:
        return
    assert isinstance(facts, BoardFacts)
