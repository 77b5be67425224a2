"""jetson/scripts/power.sh against stand-ins for nvpmodel, jetson_clocks and sudo."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson.connection import SCRIPTS, ConnectionLost
from jetson.power import Outcome, outcome
from jetson.steps.power import CLOCKS_FILE, read_power
from tests.support.boards import SAMPLES
from tests.support.power_boards import (
    AGX,
    NANO_PLAIN,
    NANO_SUPER,
    NX_SUPER,
    PowerBoard,
    PowerKind,
    power_board,
)

SCRIPT = "power.sh"


@pytest.fixture
def board(tmp_path: Path) -> PowerBoard:
    return power_board(tmp_path, NANO_SUPER)


def mode(board: PowerBoard) -> int:
    return int((board.root / "fake/power/mode").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", [NANO_SUPER, NANO_PLAIN, NX_SUPER, AGX])
def test_query_reads_every_board(tmp_path: Path, kind: PowerKind) -> None:
    board = power_board(tmp_path, kind)
    state = read_power(board)
    assert state.current is not None
    assert state.current.number == kind.mode
    assert state.faults(state.current) == []
    assert state.clocks.gpu is not None
    assert state.clocks.gpu.top == kind.gpu_top
    assert state.compatible == kind.compatible
    assert state.over_current == {"oc1": 0, "oc2": 0, "oc3": 0}
    assert state.boot_id.startswith("11111111-")
    assert not state.stored
    assert not state.relinked


def test_query_changes_nothing(board: PowerBoard) -> None:
    def files() -> dict[Path, bytes]:
        found = (path for path in board.root.rglob("*") if path.is_file() and path.name != "scripts")
        return {path: path.read_bytes() for path in found}

    before = files()
    read_power(board)
    assert files() == before


@pytest.mark.parametrize("behaviour", ["verbose", "warns-users"])
def test_query_among_warnings(board: PowerBoard, behaviour: str) -> None:
    board.fake(behaviour)
    assert read_power(board).mode_name == "25W"


def test_query_without_an_answer_takes_what_is_stored(board: PowerBoard) -> None:
    board.fake("silent")
    board.script(SCRIPT, "set", "0")
    assert read_power(board).mode_name == "15W"


def test_query_without_a_configuration_asks_nvpmodel(board: PowerBoard) -> None:
    board.program("nvpmodel", f"cat {SAMPLES}/nvpmodel-parse-emulated-jtop.txt")
    (board.root / "etc/nvpmodel.conf").unlink()
    assert read_power(board).modes.names == "MAXN"


def test_query_tells_that_nvpower_took_the_super_file_away(board: PowerBoard) -> None:
    board.program("journalctl", f"cat {SAMPLES}/nvpower-journal-relink-nonsuper.txt")
    assert read_power(board).relinked


def test_set_declines_the_reboot_and_leaves_the_mode(board: PowerBoard) -> None:
    board.fake("asks")
    ran = board.script(SCRIPT, "set", "0")
    assert ran.out == (SAMPLES / "nvpmodel-m-reboot-prompt-declined.txt").read_text(encoding="utf-8").replace(
        "power mode: 1", "power mode: 0"
    )
    assert ran.status == 234
    assert outcome(ran.out, ran.status) is Outcome.NEEDS_REBOOT
    assert mode(board) == 1


def test_set_changes_what_can_be_changed_live(board: PowerBoard) -> None:
    ran = board.script(SCRIPT, "set", "3")
    assert outcome(ran.out, ran.status) is Outcome.CHANGED
    assert mode(board) == 3


def test_set_and_reboot_confirms(board: PowerBoard) -> None:
    board.fake("asks-for", "3\n")
    boot_id = read_power(board).boot_id
    with pytest.raises(ConnectionLost):
        board.script(SCRIPT, "set-and-reboot", "3")
    board.down.refusals = 0
    board.reconnect()
    state = read_power(board)
    assert (state.mode_name, state.boot_id == boot_id) == ("7W", False)


def test_the_boot_it_asked_for_leaves_the_mode_to_who_asked(board: PowerBoard) -> None:
    """Else the version that ran before, whose unit starts then, would set its own mode again."""
    board.fake("asks-for", "3\n")
    with pytest.raises(ConnectionLost):
        board.script(SCRIPT, "set-and-reboot", "3")
    board.down.refusals = 0
    board.reconnect()
    unit = board.files.write("home/pedsam/current/power.sh", (SCRIPTS / SCRIPT).read_text(encoding="utf-8"))
    assert "left as it is" in board.run(f"sh {unit} boot 25W").out
    state = read_power(board)
    assert (state.mode_name, state.clocks.pinned) == ("7W", False)
    board.run(f"sh {unit} boot 25W")
    state = read_power(board)
    assert (state.mode_name, state.clocks.pinned) == ("25W", True)


def test_no_status_is_taken_for_a_lost_connection(board: PowerBoard) -> None:
    board.fake("refuses", "255\n")
    ran = board.script(SCRIPT, "set", "3")
    assert ran.status == 254
    assert "NVPM ERROR: request for bad power mode 3" in ran.out


def test_root_is_asked_for_without_waiting(board: PowerBoard) -> None:
    board.files.sudo_needs_password()
    for command in (["set", "0"], ["clocks-pin"], ["clocks-store", CLOCKS_FILE], ["clocks-show"]):
        ran = board.script(SCRIPT, *command)
        assert ran.status == 1
        assert "sudo: a password is required" in ran.out
    assert mode(board) == 1
    assert read_power(board).mode_name == "25W"


def test_clocks_are_kept_pinned_and_given_back(board: PowerBoard) -> None:
    free = read_power(board).clocks
    assert board.script(SCRIPT, "clocks-store", CLOCKS_FILE).status == 0
    assert (board.home / CLOCKS_FILE).is_file()
    assert board.script(SCRIPT, "clocks-pin").status == 0
    state = read_power(board)
    assert state.clocks.pinned
    assert state.stored
    assert board.script(SCRIPT, "clocks-restore", CLOCKS_FILE).status == 0
    state = read_power(board)
    assert state.clocks == free
    assert not state.stored
    assert not (board.root / "root/.jetsonclocks_conf.txt").exists()


def test_clocks_are_kept_again_over_a_file_that_is_there(board: PowerBoard) -> None:
    for name in (CLOCKS_FILE, f"{CLOCKS_FILE}.new"):
        (board.home / name).parent.mkdir(parents=True, exist_ok=True)
        (board.home / name).write_text("old", encoding="utf-8")
    assert board.script(SCRIPT, "clocks-store", CLOCKS_FILE).status == 0
    assert "max_freq:918000000" in (board.home / CLOCKS_FILE).read_text(encoding="utf-8")


def test_clocks_that_were_not_kept_cannot_be_given_back(board: PowerBoard) -> None:
    ran = board.script(SCRIPT, "clocks-restore", CLOCKS_FILE)
    assert ran.status == 1
    assert ran.out == f"Error: {board.home / CLOCKS_FILE} file not found !\n"


def test_boot_sets_the_mode_by_name_and_pins(tmp_path: Path) -> None:
    board = power_board(tmp_path, AGX)
    assert board.script(SCRIPT, "boot", "50W").status == 0
    assert mode(board) == 3
    assert read_power(board).clocks.pinned


def test_boot_asks_for_no_mode_it_is_in(board: PowerBoard) -> None:
    board.script(SCRIPT, "boot", "25W")
    assert not (board.root / "fake/power/requests").exists()
    assert read_power(board).clocks.pinned


def test_boot_never_reboots_and_pins_all_the_same(board: PowerBoard) -> None:
    board.fake("asks")
    ran = board.script(SCRIPT, "boot", "7W")
    assert "Reboot required" in ran.out
    assert mode(board) == 1
    assert read_power(board).clocks.pinned


def test_boot_says_that_a_mode_is_missing(board: PowerBoard) -> None:
    assert "this board has no power mode 50W" in board.script(SCRIPT, "boot", "50W").out
    assert read_power(board).clocks.pinned


@pytest.mark.parametrize("arguments", [(), ("unknown",)])
def test_an_unknown_command_is_refused(board: PowerBoard, arguments: tuple[str, ...]) -> None:
    assert board.script(SCRIPT, *arguments).status == 2


def test_the_stand_in_hangs_as_nvpmodel_does(board: PowerBoard) -> None:
    """What the script must never do: no answer, and output thrown away."""
    board.fake("asks")
    with pytest.raises(ConnectionLost):
        board.run("BOARD_AS_ROOT=1 exec nvpmodel -m 0 >/dev/null </dev/null", timeout_s=0.5)
    ran = board.run("BOARD_AS_ROOT=1 nvpmodel -m 0 </dev/null")
    assert ran.status == 234
    assert ran.out == (
        "NVPM WARN: Golden image context is already created\n"
        + (SAMPLES / "nvpmodel-m-reboot-prompt-eof.txt")
        .read_text(encoding="utf-8")
        .replace("power mode: 2", "power mode: 0")
    )
