"""`pedsam flash --power` and its rollback as a whole: real OpenSSH, boards of files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetson.connection import Board
from jetson.flash import StepFailed
from jetson.steps.power import PowerState, read_power
from tests.support.flashing import Flashing
from tests.support.power_boards import NANO_FORCED, NANO_PLAIN, lay_power

pytestmark = pytest.mark.sshd


def power(board: Flashing, script: str = "") -> PowerState:
    """The power state of a board, after a script ran there."""
    with Board("board", board.ssh_config) as connection:
        if script:
            connection.run(script)
        return read_power(connection)


def test_a_mode_is_set_kept_at_boots_and_taken_back(board: Flashing) -> None:
    board.flash()
    first = board.current
    said = board.flash(power="maxn super")
    assert re.search(r"MAXN_SUPER, GPU up to 1020 MHz, CPU up to 1728 MHz, pinned, memory at 2133 MHz", said)
    assert str(power(board)) == "MAXN_SUPER, GPU up to 1020 MHz, CPU up to 1728 MHz, pinned"
    unit = board.board.folder / "etc/systemd/system/pedsam.service"
    assert re.search(r"^ExecStartPre=.*/power\.sh boot MAXN_SUPER$", unit.read_text(), re.MULTILINE)
    assert str(power(board)) in board.flash(power="MAXN_SUPER")
    assert "25W, GPU up to 918 MHz, CPU up to 1344 MHz" in board.rollback()
    assert board.current == first
    assert str(power(board)) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"
    board.rollback()
    assert board.power == "MAXN_SUPER pinned"


def test_a_reboot_that_is_not_allowed_leaves_what_ran(board: Flashing) -> None:
    board.flash()
    first = board.running
    board.board.write("fake/power/asks-for", "3\n")
    with pytest.raises(StepFailed, match="7W needs a reboot of the board: give --reboot"):
        board.flash(power="7W")
    assert board.running == first
    assert str(power(board)) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"


def test_a_reboot_that_is_allowed(board: Flashing) -> None:
    board.board.write("fake/power/asks-for", "3\n")
    assert "7W, GPU up to 408 MHz, CPU up to 960 MHz, pinned" in board.flash(power="7W", reboot=True)
    assert (board.board.folder / "fake/rebooted").exists()
    assert board.running


def test_a_mode_that_the_board_lacks_changes_nothing(board: Flashing) -> None:
    lay_power(board.board, NANO_PLAIN)
    with pytest.raises(
        StepFailed, match=r"no power mode MAXN_SUPER; --power takes 15W and 7W\. Super needs JetPack"
    ):
        board.flash(power="MAXN_SUPER")
    assert board.current is None
    assert not Path(board.board.home / "pedsam/state/clocks.txt").exists()


def test_a_mode_by_label_only_is_refused(board: Flashing) -> None:
    lay_power(board.board, NANO_FORCED)
    power(board, "nvpmodel --at-boot")
    with pytest.raises(StepFailed, match=r"^power: MAXN_SUPER is only a label on this board: .*-super"):
        board.flash(power="MAXN_SUPER")
