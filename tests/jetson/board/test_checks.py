"""Checks of a board: each says what hinders, and the command that helps."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jetson.board import checks
from jetson.board.checks import Check, check
from jetson.board.facts import BoardFacts, look, read_facts
from jetson.board.findings import Finding, Wanted, refused, table
from jetson.board.hardware import Hardware
from jetson.board.releases import L4T
from jetson.board.sections import Camera, Disk, Docker, Memory
from tests.support.boards import BOARDS, FakeBoard, rows

GIB = 1024**3
MIB = 1024**2
WANTED = Wanted(address="jetson@board", sources=("csi://0", "1"), image_bytes=6 * GIB, home_bytes=GIB)
NANO = Hardware("NVIDIA Jetson Orin Nano", "tegra234", "Orin Nano", "p3767-0005", 8, True)
ROOM = Disk("/", 116 * GIB, 60 * GIB)
GOOD = BoardFacts(
    user="jetson",
    home="/home/jetson",
    host="board",
    uid=1000,
    architecture="aarch64",
    kernel="5.15.148-tegra",
    hardware=NANO,
    l4t=L4T(36, 4, 3),
    memory=Memory(7620 * MIB, 5107 * MIB, 3810 * MIB, 4 * MIB, 105),
    desktop=False,
    clock_offset_s=1.5,
    clock_synchronized=True,
    root_writable=True,
    home_writable=True,
    home_disk=ROOM,
    docker_disk=ROOM,
    containerd_disk=ROOM,
    docker=Docker("ready", "", "29.4.3", ("nvidia", "runc"), "runc", "overlay2", False, "/var/lib/docker"),
    sudo="passwordless",
    groups=("jetson", "docker"),
    registered_groups=("jetson", "docker"),
    group_ids={"video": 44, "render": 104},
    devices={"/dev/nvmap": 44, "/dev/dri/renderD128": 104, "/dev/video0": 44, "/dev/video1": 44},
    cameras=(Camera("/dev/video0", "vi-output, imx219 9-0010", "csi"), Camera("/dev/video1", "C920", "usb")),
    argus_socket=True,
)


def facts(**changed: Any) -> BoardFacts:
    return dataclasses.replace(GOOD, **changed)


def wanted(**changed: Any) -> Wanted:
    return dataclasses.replace(WANTED, **changed)


def only(one: Check, changed: BoardFacts, given: Wanted = WANTED) -> Finding:
    """The one finding of a check that is not ok."""
    found = [finding for finding in one(changed, given) if finding.level != "ok"]
    assert len(found) == 1
    return found[0]


def levels(one: Check, changed: BoardFacts, given: Wanted = WANTED) -> list[str]:
    return [finding.level for finding in one(changed, given)]


def test_good_board_has_findings_that_are_all_ok() -> None:
    found = check(GOOD, WANTED)
    assert {finding.level for finding in found} == {"ok"}
    assert refused(found) is None
    assert found[:2] == [
        Finding("ok", "the board is a Jetson Orin Nano 8GB Super"),
        Finding("ok", "the board runs JetPack 6.2 (L4T 36.4.3)"),
    ]


def test_every_check_of_the_module_is_done() -> None:
    named = {value for name, value in vars(checks).items() if name.startswith("check_")}
    assert named == set(checks.CHECKS)


def test_sentence_of_the_first_refused_finding_is_what_flash_fails_with() -> None:
    found = [Finding("warning", "a"), Finding("refused", "b"), Finding("refused", "c")]
    assert refused(found) == Finding("refused", "b")


def test_machine_that_is_no_jetson() -> None:
    found = only(checks.check_board, facts(hardware=Hardware(), l4t=None, architecture="x86_64", host="vm"))
    assert found.level == "refused"
    assert found.what == "vm is no Jetson (x86_64); flash needs a Jetson of the Orin family that runs JetPack"
    assert levels(checks.check_release, facts(hardware=Hardware(), l4t=None)) == []


def test_thor_is_refused() -> None:
    thor = Hardware("NVIDIA Jetson AGX Thor Developer Kit", "tegra264", "AGX Thor", "p3834-0008", 128)
    found = only(checks.check_board, facts(hardware=thor))
    assert (
        found.what
        == "the board is a Jetson AGX Thor 128GB with tegra264; flash needs the Orin family (tegra234)"
    )


def test_vendor_s_name_does_not_matter_where_the_chip_is_orin() -> None:
    assert levels(checks.check_board, facts(hardware=Hardware("Acme Box", "tegra234"))) == ["ok"]


def test_jetson_without_a_known_release() -> None:
    found = only(checks.check_release, facts(l4t=None))
    assert found.level == "refused"
    assert "flash needs JetPack 6.1 to 6.2.x (L4T 36.4 to 36.5)" in found.what


@pytest.mark.parametrize("l4t", [L4T(35, 4, 1), L4T(36, 3), L4T(38, 4), L4T(39, 2)])
def test_release_that_the_image_does_not_serve(l4t: L4T) -> None:
    found = only(checks.check_release, facts(l4t=l4t))
    assert found.level == "refused"
    assert f"(L4T {l4t})" in found.what


def test_release_newer_than_all_known_ones_is_warned_of() -> None:
    found = only(checks.check_release, facts(l4t=L4T(36, 6, 1), kernel="6.1.0-tegra"))
    assert found.level == "warning"
    assert "L4T 36.6.1 is newer than all that this pedsam knows" in found.what


KERNELS = {row["l4t"]: row["uname -r"] for row in rows("uname-r.tsv")}


@pytest.mark.parametrize(
    ("name", "l4t"),
    [
        ("36.4.0-36.4.7", L4T(36, 4, 0)),
        ("36.4.0-36.4.7", L4T(36, 4, 7)),
        ("36.5.0", L4T(36, 5, 0)),
        ("36.5.2", L4T(36, 5, 2)),
    ],
)
def test_kernel_of_the_release(name: str, l4t: L4T) -> None:
    assert levels(checks.check_release, facts(l4t=l4t, kernel=KERNELS[name])) == ["ok"]


@pytest.mark.parametrize("name", ["35.1.0", "39.2.0/39.2.1"])
def test_kernel_of_another_release_is_warned_of(name: str) -> None:
    found = only(checks.check_release, facts(kernel=KERNELS[name]))
    assert found.level == "warning"
    assert f"kernel {KERNELS[name]} does not belong to JetPack 6.2 (L4T 36.4.3), which has 5.15" in found.what


def test_memory_fault_of_one_release() -> None:
    assert levels(checks.check_memory_fault, GOOD) == []
    found = only(checks.check_memory_fault, facts(l4t=L4T(36, 4, 7)))
    assert found.level == "warning"
    assert "L4T 36.4.7" in found.what


def test_read_only_root() -> None:
    found = only(checks.check_writable, facts(root_writable=False, home_writable=False))
    assert found.level == "refused"
    assert "read-only" in found.what
    assert "dmesg" in found.fix


def test_home_that_belongs_to_another() -> None:
    found = only(checks.check_writable, facts(home_writable=False))
    assert found.level == "refused"
    assert found.fix == "ssh -t jetson@board 'sudo chown jetson /home/jetson'"


def test_writability_that_is_unknown_hinders_nothing() -> None:
    assert levels(checks.check_writable, facts(root_writable=None, home_writable=None)) == []


@pytest.mark.parametrize(
    ("offset_s", "said"),
    [
        (-61.0, "61 s behind"),
        (90.0, "90 s ahead of"),
        (-7200.0, "2 hours behind"),
        (-20 * 60.0, "20 minutes behind"),
        (3 * 86400.0, "3 days ahead of"),
        (-56 * 365.25 * 86400, "56 years behind"),
    ],
)
def test_wrong_clock(offset_s: float, said: str) -> None:
    found = only(checks.check_clock, facts(clock_offset_s=offset_s))
    assert found.level == "refused"
    assert found.what == f"the board's clock is {said} this machine's"
    assert found.fix == 'ssh jetson@board "sudo date -u -s @$(date +%s)"'


@pytest.mark.parametrize("offset_s", [-60.0, 0.0, 60.0])
def test_clock_within_a_minute(offset_s: float) -> None:
    assert levels(checks.check_clock, facts(clock_offset_s=offset_s)) == ["ok"]


def test_clock_that_flash_will_set_is_only_warned_of() -> None:
    assert only(checks.check_clock, facts(clock_offset_s=-3600.0), wanted(sets_clock=True)).level == "warning"


def test_line_that_sets_the_clock_asks_for_a_password_where_sudo_does() -> None:
    assert checks.set_clock(facts(sudo="password"), WANTED).startswith("ssh -t jetson@board ")
    assert "sudo" not in checks.set_clock(facts(sudo="root"), WANTED)


def test_clock_of_which_nobody_knows_what_keeps_it() -> None:
    assert levels(checks.check_clock, facts(clock_synchronized=None)) == ["ok"]


def test_clock_that_is_unknown_and_clock_that_nothing_keeps_right() -> None:
    assert only(checks.check_clock, facts(clock_offset_s=None, clock_synchronized=None)).level == "warning"
    found = only(checks.check_clock, facts(clock_synchronized=False))
    assert found.fix == "ssh -t jetson@board 'sudo timedatectl set-ntp true'"


def test_memory_that_is_too_little() -> None:
    given = wanted(memory_bytes=6 * GIB)
    found = only(checks.check_memory, GOOD, given)
    assert found.level == "warning"
    assert found.what.startswith("5.0 GiB of memory are free, and the edge needs about 6.0 GiB")
    assert "--headless" not in found.what
    assert "--headless" in only(checks.check_memory, facts(desktop=True), given).what
    assert levels(checks.check_memory, GOOD, wanted(memory_bytes=5 * 1000**3)) == ["ok"]


@pytest.mark.parametrize(
    ("blocks", "size_mib", "warned"),
    [(1, 4, True), (2, 4, True), (3, 4, False), (105, 4, False), (8, 2, True)],
)
def test_memory_in_small_pieces(blocks: int, size_mib: int, warned: bool) -> None:
    memory = dataclasses.replace(GOOD.memory, largest_blocks=blocks, largest_block_bytes=size_mib * MIB)
    found = list(checks.check_blocks(facts(memory=memory), WANTED))
    assert [finding.level for finding in found] == ["warning"] * warned
    assert all(f"largest: {blocks} of {size_mib} MiB" in finding.what for finding in found)


def test_board_without_swap() -> None:
    found = only(checks.check_swap, facts(memory=dataclasses.replace(GOOD.memory, swap_bytes=0)))
    assert found.level == "warning"
    assert "sudo swapon /swapfile" in found.fix
    assert levels(checks.check_swap, facts(memory=Memory())) == []


def test_desktop_is_warned_of_unless_flash_turns_it_off() -> None:
    assert "--headless" in only(checks.check_desktop, facts(desktop=True)).what
    assert levels(checks.check_desktop, facts(desktop=True), wanted(headless=True)) == []
    assert levels(checks.check_desktop, facts(desktop=None)) == []


def with_free(gib: float, **docker: Any) -> BoardFacts:
    disk = Disk("/", 116 * GIB, round(gib * GIB))
    return facts(docker_disk=disk, docker=dataclasses.replace(GOOD.docker, **docker))


def test_room_for_twice_the_image() -> None:
    assert levels(checks.check_disks, with_free(12)) == ["ok", "ok"]
    found = only(checks.check_disks, with_free(11.5))
    assert found.level == "refused"
    assert "11.5 GiB are free at /var/lib/docker (on /), and 12.0 GiB are needed" in found.what
    assert found.fix == "ssh jetson@board 'docker system prune --all'"


def test_no_room_is_needed_for_an_image_that_is_there() -> None:
    assert levels(checks.check_disks, with_free(0.1), wanted(image_bytes=None)) == ["ok", "ok"]


def test_room_for_many_copies_where_the_driver_is_vfs() -> None:
    assert "60.0 GiB are needed" in only(checks.check_disks, with_free(59, storage_driver="vfs")).what


def test_room_where_containerd_keeps_the_images() -> None:
    small = Disk("/", 116 * GIB, GIB)
    store = dataclasses.replace(GOOD.docker, containerd_store=True)
    found = only(checks.check_disks, facts(containerd_disk=small, docker=store))
    assert "1.0 GiB are free at /var/lib/containerd" in found.what
    assert levels(checks.check_disks, facts(containerd_disk=small)) == ["ok", "ok"]


def test_room_at_home() -> None:
    found = only(checks.check_disks, facts(home_disk=Disk("/home", 10 * GIB, 100 * MIB)))
    assert "100 MiB are free at /home/jetson (on /home), and 1.0 GiB are needed" in found.what


def test_room_that_is_unknown_is_warned_of() -> None:
    assert only(checks.check_disks, facts(docker_disk=None)).level == "warning"


def test_sudo_that_asks_for_a_password() -> None:
    found = only(checks.check_sudo, facts(sudo="password"))
    assert found.level == "refused"
    assert "--no-root" in found.what
    assert shlex.split(found.fix)[3] == (
        'printf "%s ALL=(ALL) NOPASSWD: ALL\\n" jetson | sudo tee /etc/sudoers.d/pedsam'
    )


def test_sudo_that_is_missing() -> None:
    assert "--no-root" in only(checks.check_sudo, facts(sudo="missing")).what


@pytest.mark.parametrize("sudo", ["password", "missing"])
def test_sudo_is_not_needed_without_root(sudo: str) -> None:
    assert levels(checks.check_sudo, facts(sudo=sudo), wanted(no_root=True)) == []
    assert levels(checks.check_sudo, facts(sudo="root")) == []


def test_cameras_that_are_there() -> None:
    found = list(checks.check_cameras(GOOD, wanted(sources=("csi://0", "1", "/dev/video1"))))
    assert [finding.level for finding in found] == ["ok"] * 3
    assert found[1].what == "source 1 is C920"


@pytest.mark.parametrize("source", ["2", "/dev/video2"])
def test_camera_that_is_not_there(source: str) -> None:
    found = only(checks.check_cameras, GOOD, wanted(sources=(source,)))
    assert found.level == "refused"
    assert found.what == (
        f"source {source}: the board has no /dev/video2; "
        "its cameras: /dev/video0 (vi-output, imx219 9-0010), /dev/video1 (C920)"
    )


def test_no_csi_camera() -> None:
    found = only(checks.check_cameras, facts(cameras=(), devices={}), wanted(sources=("csi://0",)))
    assert found.level == "refused"
    assert "sees no CSI camera; its cameras: none" in found.what


def test_usb_camera_is_no_csi_camera() -> None:
    usb = (Camera("/dev/video0", "C920", "usb"),)
    found = only(checks.check_cameras, facts(cameras=usb), wanted(sources=("csi://0",)))
    assert "no CSI camera; its cameras: /dev/video0 (C920)" in found.what


def test_csi_camera_without_its_service() -> None:
    found = only(checks.check_cameras, facts(argus_socket=False), wanted(sources=("csi://0",)))
    assert found.level == "refused"
    assert found.fix == "ssh -t jetson@board 'sudo systemctl restart nvargus-daemon'"


@pytest.mark.parametrize("source", ["rtsp://camera/stream", "video.mp4", "frames"])
def test_source_that_is_no_camera_of_the_board(source: str) -> None:
    assert levels(checks.check_cameras, facts(cameras=(), devices={}), wanted(sources=(source,))) == []


def test_gpu_whose_driver_is_not_loaded() -> None:
    found = only(checks.check_gpu_nodes, facts(devices={"/dev/dri/renderD128": 104}))
    assert found.level == "warning"
    assert "driver is not loaded" in found.what


def test_groups_that_are_unknown() -> None:
    found = only(checks.check_gpu_nodes, facts(group_ids={}, devices={"/dev/nvmap": None}))
    assert "no group video and no group render" in found.what


def test_command_for_the_board_is_quoted() -> None:
    strange = wanted(address="me@board; reboot")
    assert shlex.split(strange.command("echo 'a b' | cat")) == ["ssh", "me@board; reboot", "echo 'a b' | cat"]


HOSTILE = "$(touch owned); '"


def fixes(changed: BoardFacts) -> Iterator[str]:
    for finding in check(changed, WANTED):
        if finding.fix:
            yield finding.fix


def test_names_of_a_board_cannot_add_commands_to_what_is_pasted() -> None:
    bad = facts(
        user=HOSTILE,
        home=HOSTILE,
        home_writable=False,
        sudo="password",
        home_disk=Disk("/", GIB, 0),
        docker=Docker("denied", "permission denied"),
    )
    found = [fix for fix in fixes(bad) if "touch owned" in fix]
    assert len(found) == 4
    for fix in found:
        command = shlex.split(fix)[-1]
        assert any(word == HOSTILE for word in shlex.split(command.replace("\\n", "")))


def test_table_shows_each_finding_as_it_is() -> None:
    console = Console(width=200, record=True)
    console.print(table([Finding("ok", "fine [bold]"), Finding("refused", "no room", "ssh board")]))
    shown = console.export_text()
    assert "fine [bold]" in shown
    assert "refused" in shown
    assert "ssh board" in shown


# The first thing that stops flash on a board of files; None where nothing does.
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("orin-nano-super", None),
        ("orin-nano", None),
        ("orin-nx", None),
        ("agx-orin", None),
        ("36.4.7", None),
        ("jetpack-5", "JetPack 5.0.2 (L4T 35.1.0)"),
        ("36.3", "JetPack 6.0 (L4T 36.3.0)"),
        ("39.2", "JetPack 7.2 (L4T 39.2.0)"),
    ],
)
def test_board_of_files(name: str, said: str | None, tmp_path: Path) -> None:
    found = refused(check(look(FakeBoard(tmp_path / "board", name).connection()), WANTED))
    assert (found is None) == (said is None)
    assert said is None or (found is not None and said in found.what)


def test_every_board_of_files_is_tried() -> None:
    assert len(BOARDS) == 8


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("without_nvidia_runtime", "no runtime nvidia"),
        ("with_containerd_store", "ignores the runtime nvidia"),
        ("docker_denied", "may not use docker"),
        ("docker_down", "docker does not run"),
        ("full_disk", "are needed"),
        ("read_only", "read-only"),
        ("sudo_needs_password", "asks jetson for a password"),
        ("without_cameras", "no CSI camera"),
    ],
)
def test_trouble_of_a_board_stops_flash(trouble: str, said: str, tmp_path: Path) -> None:
    board = FakeBoard(tmp_path / "board")
    getattr(board, trouble)()
    found = refused(check(look(board.connection()), WANTED))
    assert found is not None
    assert said in found.what


def test_clock_of_1970_stops_flash_and_its_line_mends_it(tmp_path: Path) -> None:
    board = FakeBoard(tmp_path / "board")
    board.clock_in_1970(time.time())
    found = refused(check(look(board.connection()), WANTED))
    assert found is not None
    assert "years behind" in found.what
    command = shlex.split(found.fix)[-1].replace("$(date +%s)", f"{time.time():.0f}")
    assert board.connection().run(command).status == 0
    assert refused(check(look(board.connection()), WANTED)) is None


@pytest.mark.parametrize(
    ("trouble", "said"), [("with_desktop", "a desktop runs"), ("fragmented", "small pieces")]
)
def test_trouble_of_a_board_is_warned_of(trouble: str, said: str, tmp_path: Path) -> None:
    board = FakeBoard(tmp_path / "board")
    getattr(board, trouble)()
    found = check(look(board.connection()), WANTED)
    assert refused(found) is None
    assert [finding.what for finding in found if finding.level == "warning" and said in finding.what]


def test_board_of_which_nothing_is_known_is_refused_and_crashes_nothing() -> None:
    found = check(read_facts("\nword end 0\n", "word"), WANTED)
    assert refused(found) is not None
