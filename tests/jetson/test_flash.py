"""`pedsam flash` and `pedsam board` as a whole: real OpenSSH, pretended boards."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from jetson.connection import BoardError, ConnectionLost
from jetson.flash import STEPS, StepFailed
from jetson.steps.smoke import PICTURE
from stages.errors import InputError, PedsamError
from tests.support.flashing import EDGE, Flashing

pytestmark = pytest.mark.sshd

NamedBoard = Callable[[str], Flashing]


def another_version(board: Flashing) -> None:
    """Change edge.toml, so that the next flash is of another version."""
    path: Path = board.options["config"]
    text = path.read_text()
    path.write_text(f"# {len(text)}\n{text}")


def new_image(board: Flashing, content: str) -> None:
    """Another image file, and so another version in which everything has to be done."""
    Path(board.options["image"]).write_bytes(f"image {content}".encode())


def snapshot(board: Flashing) -> dict[str, tuple[int, int]]:
    """Every file below the home folder by its inode and the time it was written."""
    home = board.board.home
    found = {str(path.relative_to(home)): path.lstat() for path in home.rglob("*")}
    return {name: (each.st_ino, each.st_mtime_ns) for name, each in found.items()}


def test_a_new_board_becomes_an_edge(board: Flashing) -> None:
    assert board.running is None
    said = board.flash()
    assert board.running == board.current
    for step in STEPS:
        assert f"\n{step.name} " in said
    assert "Orin Nano 8GB Super, JetPack 6.2 (L4T 36.4.3)" in said
    assert re.search(r"masks equal this machine's \(IoU 1\.000\), [\d.]+ frames/s, \d+ ms a frame", said)
    assert "ssh -N -L 8080:127.0.0.1:8080 board" in said
    assert "open http://127.0.0.1:8080/#token" in said


def test_the_board_segments_through_the_sites(board: Flashing, tmp_path: Path) -> None:
    """Nothing canned: the smoke test and the service are `pedsam run` on this machine."""
    (board.board.folder / "real").touch()
    write_clip(tmp_path / "clip.mp4", frames=400)
    (tmp_path / "prompts.json").write_text(json.dumps({"objects": [{"box": [90, 30, 225, 165]}]}))
    board.options["config"].write_text(
        '[source]\nsource = "clip.mp4"\nrealtime = true\n'
        '[loop]\nbackend = "onnxruntime-cpu"\nthreads = 1\nprompts = "prompts.json"\n'
    )
    said = board.flash()
    assert "IoU 1.000" in said
    assert board.running == board.current
    ledger = json.loads((board.board.home / "pedsam/state/ledger.json").read_text())
    assert ledger["exposure"].keys() == {"a", "b", "c"}


def write_clip(path: Path, frames: int) -> None:
    """The smoke test's picture as a film of five frames a second."""
    read = cv2.imread(str(PICTURE))
    assert read is not None
    picture = cv2.resize(read, (300, 200))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (300, 200))
    for _ in range(frames):
        writer.write(picture)
    writer.release()


def test_the_same_flash_again_changes_nothing(board: Flashing) -> None:
    board.flash()
    before, container = snapshot(board), (board.board.folder / "docker/containers/pedsam/pid").read_text()
    scripts = board.board.folder / "state/scripts"
    scripts.unlink()
    said = board.flash()
    assert snapshot(board) == before
    assert (board.board.folder / "docker/containers/pedsam/pid").read_text() == container
    changing = "put|begin|bundle|write|load|build|run|switch|set|engines.sh"
    assert not re.search(rf"^\S+ ({changing}) ", scripts.read_text(), re.MULTILINE)
    assert "runs and is healthy" in said
    assert "open http://127.0.0.1:8080/#token" in said


def test_a_dry_run_tells_every_step_and_changes_nothing(board: Flashing) -> None:
    before = snapshot(board)
    said = board.flash(dry_run=True, headless=True)
    assert snapshot(board) == before
    assert board.current is None
    would = re.findall(r"^ +would (.*)$", said, re.MULTILINE)
    assert len(would) == 6  # not the desktop, which is off, nor power, which was not asked for
    assert said.rstrip().endswith("nothing was changed: --dry-run")


@pytest.mark.parametrize("name", ["orin-nano", "orin-nx", "agx-orin"])
def test_other_boards_are_flashed_too(board_named: NamedBoard, name: str) -> None:
    board = board_named(name)
    board.flash()
    assert board.running == board.current


def test_a_release_with_a_memory_fault_is_warned_of(board_named: NamedBoard) -> None:
    said = board_named("36.4.7").flash(dry_run=True)
    assert "warning: L4T 36.4.7 is reported to fail at allocating about 1 GB" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("jetpack-5", r"JetPack 5\.0\.2 \(L4T 35\.1\.0\)"),
        ("36.3", r"JetPack 6\.0 \(L4T 36\.3\.0\)"),
        ("39.2", r"JetPack 7\.2 \(L4T 39\.2\.0\).*nobody has tried it"),
    ],
)
def test_boards_that_the_image_is_not_for(board_named: NamedBoard, name: str, says: str) -> None:
    board = board_named(name)
    with pytest.raises(StepFailed, match=rf"^look: the board runs {says}"):
        board.flash()
    assert board.versions == set()


TROUBLES: dict[str, tuple[Callable[[Flashing], object], str]] = {
    "no nvidia runtime": (lambda it: it.board.without_nvidia_runtime(), r"^look: .*nvidia-ctk runtime"),
    "docker without permission": (lambda it: it.board.docker_denied(), r"^look: .*usermod -aG docker"),
    "docker down": (lambda it: it.board.docker_down(), r"^look: .*systemctl"),
    "full disk": (lambda it: it.board.full_disk(), r"^image: 1\.5 GiB are free .* needed; make room"),
    "read-only root": (lambda it: it.board.read_only(), r"^look: .*read-only"),
    "clock in 1970": (lambda it: it.board.clock_in_1970(time.time()), r"^look: .*clock .* behind .*date -u"),
    "sudo needs a password": (lambda it: it.board.sudo_needs_password(), r"^look: sudo asks .*--no-root"),
    "no camera": (lambda it: it.board.without_cameras(), r"^look: source csi://0: .*no CSI camera"),
    "disk fills up": (lambda it: it.trouble("full-disk"), r"^image: .*no space left on device"),
    "builder killed": (lambda it: it.trouble("builder-killed"), r"^engines: .*was killed.*--headless"),
    "engines vanish": (lambda it: it.trouble("engines-vanish"), r"^engines: .*the engines are not there"),
    "sites unreachable": (lambda it: it.trouble("sites-unreachable"), r"^smoke test: .*cannot be reached at"),
    "service dies": (lambda it: it.trouble("service-dies"), r"^service: .*the camera is gone"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_told_in_a_sentence_and_what_ran_runs_on(board: Flashing, name: str) -> None:
    if name in ("sites unreachable", "service dies", "builder killed"):
        board.flash()
    ran = board.running
    another_version(board)
    make, says = TROUBLES[name]
    make(board)
    with pytest.raises(StepFailed, match=says):
        board.flash()
    for path in (board.board.folder / "troubles").glob("*"):
        path.unlink()
    assert board.current == ran
    if name == "builder killed":
        assert "global: building, 40 %\n" in board.said[-1]  # what it said before


def test_a_bundle_that_arrives_damaged_is_found_and_mended_by_the_same_command(board: Flashing) -> None:
    damaging = '#!/bin/sh\n/usr/bin/tar "$@" && echo damaged >> bundle/global/model.onnx\n'
    board.board.program("tar", damaging)
    with pytest.raises(StepFailed, match=r"^bundle: the bundle arrived damaged on board: "):
        board.flash()
    (board.board.folder / "bin/tar").unlink()
    said = board.flash()
    assert "sent 1 of 9 files; all verified on the board" in said
    assert board.running is not None


def test_masks_that_differ_are_found(board: Flashing) -> None:
    """As of engines that compute something else than the bundle says."""
    canned = board.board.folder / "canned"
    made = canned.resolve()
    canned.unlink()
    shutil.copytree(made, canned)
    line = json.loads((canned / "masks.jsonl").read_text())
    height, width = line["segmentation"]["size"]
    everything = coco.encode(np.ones((height, width), np.uint8, order="F"))
    line["segmentation"]["counts"] = everything["counts"].decode()
    (canned / "masks.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(StepFailed, match=r"^smoke test: masks of board and of this machine differ \(IoU 0\."):
        board.flash()
    assert board.running is None


def test_a_wrong_clock_can_be_set(board: Flashing) -> None:
    board.board.clock_in_1970(time.time())
    said = board.flash(confirm=True)
    assert "the clock was set" in said
    assert abs(int(board.board.state("clock_offset"))) < 5
    assert board.running is not None


# Scripts that change the board, with their first arguments, in the order of the steps; look.sh comes first.
CUTS = (
    "look.sh",
    "image.sh load",
    "versions.sh begin",
    "versions.sh bundle",
    "versions.sh put",
    "power.sh set",
    "power.sh clocks-pin",
    "engines.sh",
    "smoke.sh run",
    "versions.sh write",  # of what the smoke test told, or how the board was before
)


@pytest.mark.timeout(900)
def test_cut_before_any_change_the_same_command_completes(board: Flashing) -> None:
    board.flash()
    for number, words in enumerate((*CUTS, "service.sh switch")):
        ran = board.running
        new_image(board, words)
        power = ("25W", "15W")[number % 2]
        board.cut("before", words)
        with pytest.raises(StepFailed, match="give the same command again, it goes on from there"):
            board.flash(power=power)
        assert board.running == ran, words
        board.flash(power=power)
        assert board.running == board.current != ran, words
        assert board.power == f"{power} pinned"


@pytest.mark.timeout(900)
def test_cut_after_any_change_rollback_undoes_it(board: Flashing) -> None:
    board.flash()
    ran = board.running
    for words in CUTS:
        new_image(board, words)
        board.cut("after", words)
        with pytest.raises(StepFailed, match="the connection to board was lost"):
            board.flash(power="15W")
        assert board.running == board.current == ran, words
        if (board.board.home / "pedsam/pending").exists():
            assert "is undone; version" in board.rollback()
        assert board.versions == {ran}, words
        assert board.power == "25W", words


def test_a_switch_that_loses_its_connection_goes_on(board: Flashing) -> None:
    board.flash()
    ran = board.running
    another_version(board)
    board.board.set("cut_in_restart", "")
    with pytest.raises(StepFailed, match=r"^service: the connection to board was lost"):
        board.flash()
    assert board.wait_until_healthy()
    assert board.running != ran
    assert "runs and is healthy" in board.flash()
    assert f"version {ran} runs again" in board.rollback()


def test_rollback_after_two_flashes_that_were_not_completed(board: Flashing) -> None:
    board.flash()
    ran = board.running
    for power in ("15W", "MAXN_SUPER"):
        board.cut("before", "engines.sh")
        with pytest.raises(StepFailed):
            board.flash(power=power)
    assert board.power == "MAXN_SUPER pinned"
    board.rollback()
    assert (board.running, board.power) == (ran, "25W")


def test_rollback_goes_back_and_forth(board: Flashing) -> None:
    board.flash()
    first = board.running
    another_version(board)
    board.flash()
    second = board.running
    assert first != second
    assert f"version {first} runs again" in board.rollback()
    assert board.running == board.current == first
    assert f"version {second} runs again" in board.rollback()
    assert board.running == second


def test_rollback_of_the_first_version_leaves_nothing_running(board: Flashing) -> None:
    board.flash()
    assert "its service is removed" in board.rollback()
    assert board.running is None
    assert not (board.board.folder / "etc/systemd/system/pedsam.service").exists()
    with pytest.raises(BoardError, match="nothing to go back to"):
        board.rollback()


def test_a_board_that_lost_power_in_a_switch_can_go_back(board: Flashing) -> None:
    """The new version runs, and its flash was not completed."""
    board.flash()
    first = board.running
    another_version(board)
    board.flash()
    second = board.running
    (board.board.home / "pedsam/pending").write_text(f"{second}\n")
    assert f"version {first} runs again" in board.rollback()
    assert board.running == first
    assert board.versions == {first, second}


def test_giving_up_a_flash_of_the_version_before_keeps_it(board: Flashing) -> None:
    board.flash()
    first, config = board.running, board.options["config"].read_text()
    another_version(board)
    board.flash()
    second = board.running
    board.options["config"].write_text(config)
    board.cut("before", "service.sh switch")
    with pytest.raises(StepFailed):
        board.flash()
    board.rollback()
    assert board.running == second
    assert f"version {first} runs again" in board.rollback()


def test_a_rollback_that_was_cut_goes_on(board: Flashing) -> None:
    board.flash()
    first = board.running
    board.flash(power="15W")
    second = board.running
    for words in ("service.sh switch", f"versions.sh write versions/{first}/before.json"):
        board.cut("before", words)
        with pytest.raises(ConnectionLost):
            board.rollback()
    assert f"version {first} runs again" in board.rollback()
    assert (board.running, board.power) == (first, "25W")
    board.rollback()
    assert (board.running, board.power) == (second, "15W pinned")


@pytest.mark.parametrize("name", ["engines.json", "smoke.json", "before.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"stages": [{}], "iou": "1", "clocks": 1}'])
def test_damaged_files_of_a_board_are_no_traceback(board: Flashing, name: str, text: str) -> None:
    board.flash()
    (board.board.home / f"pedsam/versions/{board.current}/{name}").write_text(text)
    damaged = re.compile(rf"{re.escape(name)} on board is damaged; remove it and flash again")
    for command in (board.flash, board.rollback):
        with contextlib.suppress(PedsamError):
            command()
            continue
        with pytest.raises(PedsamError, match=damaged):
            command()


def test_only_the_two_newest_versions_and_their_images_are_kept(board: Flashing) -> None:
    for number in range(3):
        new_image(board, f"{number}")
        board.flash()
    assert len(board.versions) == 2
    assert len(list((board.board.folder / "docker/images").glob("pedsam-flashed:*"))) == 2


def test_the_ledger_and_objects_outlive_versions(board: Flashing, tmp_path: Path) -> None:
    prompts = json.dumps({"objects": [{"box": [10, 20, 300, 200]}]})
    (tmp_path / "prompts.json").write_text(prompts)
    board.options["config"].write_text(EDGE.replace("[loop]", '[loop]\nprompts = "prompts.json"'))
    board.flash()
    base = board.board.home / "pedsam"
    for name in ("objects.json", "ledger.json"):
        (base / "state" / name).write_text("kept")
    another_version(board)
    board.flash()
    assert (base / "current/config/prompts.json").read_text() == prompts
    for name in ("objects.json", "ledger.json"):
        assert (base / "state" / name).read_text() == "kept"


def test_secrets_are_their_owners_alone(board: Flashing, tmp_path: Path) -> None:
    token = secrets.token_hex(20)
    (tmp_path / "token").write_text(token)
    sites: Path = board.options["sites"]
    text = sites.read_text().replace('name = "a"', f'name = "a"\ntoken_file = "{tmp_path / "token"}"')
    board.options["sites"] = tmp_path / "sites.toml"
    (tmp_path / "sites.toml").write_text(text)
    said = board.flash()
    version = board.board.home / f"pedsam/versions/{board.current}"
    assert (version / "keys/site-0/token_file").read_text() == token
    for path in (version / "keys").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    seen = (board.board.folder / "state/scripts").read_text() + said
    seen += "".join(path.read_text() for path in board.board.folder.glob("docker/containers/*/flags.json"))
    assert token not in seen


def test_without_root_docker_starts_the_service(board: Flashing) -> None:
    board.board.sudo_needs_password()
    board.flash(no_root=True)
    assert board.running is not None
    assert not (board.board.folder / "etc/systemd/system/pedsam.service").exists()
    flags, _ = json.loads((board.board.folder / "docker/containers/pedsam/flags.json").read_text())
    assert flags["--restart"] == ["always"]
    board.trouble("bench-unknown")
    ran = board.board.connection().script("service.sh", "bench", str(board.current))
    assert ran.out.splitlines() == ["the service is stopped meanwhile", "the service is started again"]
    assert board.wait_until_healthy()


@pytest.mark.parametrize("change", [{"power": "25W"}, {"headless": True}])
def test_what_needs_root_is_refused_without(board: Flashing, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="need root on the board; leave them or --no-root away"):
        board.flash(no_root=True, **change)


def test_the_desktop_is_turned_off_and_rollback_turns_it_on(board: Flashing) -> None:
    board.board.with_desktop()
    board.flash()
    assert board.board.state("default_target") == "graphical.target"
    another_version(board)
    board.flash(headless=True)
    assert board.board.state("default_target") == "multi-user.target"
    assert "gdm" not in board.board.state("active")
    assert "starts into graphical.target again" in board.rollback()
    assert board.board.state("default_target") == "graphical.target"
    assert "gdm" in board.board.state("active")


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("threads = 1", "keyframe_every = 0", r"keyframe_every in \[loop\]: 0 is not in the range"),
        ("preview = 8080", "preview = 99999", "99999 is not in the range"),
        ("preview = 8080", 'preview = 8080\npreview_host = "0.0.0.0"', "is not a loopback address"),
        ("csi://0", "nosuch.mp4", "source nosuch.mp4 does not exist"),
        ("csi://0", "csi://", "names no camera"),
        ("csi://0", "", "names no source"),
        ("threads = 1", 'prompts = "image.tar"', "prompts file .*image.tar"),
    ],
)
def test_what_is_wrong_with_edge_toml_is_told_before_the_board_is_asked(
    board: Flashing, was: str, becomes: str, says: str
) -> None:
    config: Path = board.options["config"]
    config.write_text(EDGE.replace(was, becomes))
    with pytest.raises(InputError, match=says):
        board.flash(dry_run=True)
    assert "look.sh" not in board.board.state("scripts")


def test_a_site_without_url_is_told_before_the_board_is_asked(board: Flashing, tmp_path: Path) -> None:
    board.options["sites"] = tmp_path / "sites.toml"
    (tmp_path / "sites.toml").write_text('[[site]]\nname = "a"\noperator = "a"\nurl = 2026-01-01\n')
    with pytest.raises(InputError, match=r"url of site a is .* expected text"):
        board.flash()
