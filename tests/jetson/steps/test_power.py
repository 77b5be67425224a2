"""The power step on boards made of files: what it finds, does, refuses, and how rollback goes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jetson.connection import BoardError, ConnectionLost
from jetson.steps.power import CLOCKS_FILE, PowerStep, Waiting, read_power, restore
from jetson.steps.step import FlashOptions, Job, Plan
from stages.errors import InputError
from tests.support.boards import SAMPLES
from tests.support.power_boards import (
    AGX,
    NANO_FORCED,
    NANO_PLAIN,
    NANO_SUPER,
    NX_SUPER,
    Down,
    PowerBoard,
    PowerKind,
    power_board,
)


@dataclass
class Clockwork:
    """Time that passes only by waiting."""

    now_s: float = 0.0
    pauses: int = 0

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now_s += seconds

    @property
    def waiting(self) -> Waiting:
        return Waiting(sleep=self.sleep, clock=lambda: self.now_s)


@dataclass
class PowerJob(Job):
    """A job that keeps what rollback needs in memory."""

    kept: dict[str, str] = field(default_factory=dict)

    def remember(self, key: str, value: str) -> None:
        self.kept.setdefault(key, value)


@dataclass
class Run:
    """A flash of one board, for this step alone."""

    board: PowerBoard
    time: Clockwork = field(default_factory=Clockwork)
    said: list[str] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)

    def job(self, power: str | None, *, reboot: bool = False, no_root: bool = False) -> Job:
        options = FlashOptions(
            address=self.board.address,
            bundle=Path("bundle"),
            sites=Path("sites.toml"),
            config=Path("edge.toml"),
            power=power,
            reboot=reboot,
            no_root=no_root,
        )
        rest: Any = None  # which other steps read
        return PowerJob(options, self.board, rest, rest, rest, rest, kept=self.before)

    def look(self, power: str | None, *, no_root: bool = False) -> Plan:
        return PowerStep().look(self.job(power, no_root=no_root))

    def do(self, power: str | None, *, reboot: bool = False) -> str:
        return PowerStep(self.time.waiting).do(self.job(power, reboot=reboot), self.said.append)

    @property
    def mode(self) -> str:
        return read_power(self.board).mode_name

    @property
    def requests(self) -> list[str]:
        """Numbers of the modes that nvpmodel was asked for."""
        file = self.board.root / "fake/power/requests"
        return file.read_text(encoding="utf-8").split() if file.exists() else []


@pytest.fixture
def on(tmp_path: Path) -> Callable[[PowerKind], Run]:
    return lambda kind: Run(power_board(tmp_path, kind))


On = Callable[[PowerKind], Run]


def test_without_power_nothing_is_read_or_done(on: On) -> None:
    run = on(NANO_SUPER)
    assert run.look(None) == Plan("left as it is; --power NAME sets a mode")
    assert run.do(None) == "nothing to do"
    assert run.board.scripts == []


def test_without_root_there_is_no_power_step(on: On) -> None:
    run = on(NANO_SUPER)
    assert run.look(None, no_root=True) == Plan("no power step with --no-root")
    with pytest.raises(InputError, match=r"--power 25W needs root .* no power step with --no-root"):
        run.look("25W", no_root=True)
    assert run.board.scripts == []


@pytest.mark.parametrize(
    ("kind", "power", "number", "done"),
    [
        (NANO_SUPER, "maxn super", "2", "MAXN_SUPER, GPU up to 1020 MHz, CPU up to 1728 MHz, pinned"),
        (NANO_SUPER, "15W", "0", "15W, GPU up to 612 MHz, CPU up to 1497.6 MHz, pinned"),
        (NANO_SUPER, "7W", "3", "7W, GPU up to 408 MHz, CPU up to 960 MHz, pinned"),
        (NANO_PLAIN, "7W", "1", "7W, GPU up to 408 MHz, CPU up to 960 MHz, pinned"),
        (NX_SUPER, "40W", "4", "40W, GPU up to 1173 MHz, CPU up to 1497.6 MHz, pinned"),
        (AGX, "50w", "3", "MODE_50W, GPU up to 828.75 MHz, CPU up to 1497.6 MHz, pinned"),
        (AGX, "MAXN", "0", "MAXN, GPU up to 1300.5 MHz, CPU up to 2201.6 MHz, pinned"),
    ],
)
def test_a_mode_is_set_by_name_then_there_is_nothing_to_do(
    on: On, kind: PowerKind, power: str, number: str, done: str
) -> None:
    run = on(kind)
    plan = run.look(power)
    assert plan.found == str(read_power(run.board))
    assert plan.todo.startswith("set ")
    assert run.requests == []
    assert run.do(power) == f"{done}, memory at 2133 MHz"
    assert run.requests == [number]
    assert run.look(power) == Plan(done)
    run.do(power)
    assert run.requests == [number]


def test_clocks_of_a_mode_that_is_set_are_pinned(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("asks")  # it would ask for the mode it is in as well
    assert run.look("25W") == Plan("25W, GPU up to 918 MHz, CPU up to 1344 MHz", "pin the clocks of 25W")
    run.do("25W")
    assert run.requests == []
    assert run.before == {"power_mode": "25W", "clocks": "free"}
    kept = (run.board.home / CLOCKS_FILE).read_text(encoding="utf-8")
    run.do("25W")
    assert (run.board.home / CLOCKS_FILE).read_text(encoding="utf-8") == kept
    assert "min_freq:306000000" in kept


def test_what_a_broken_off_run_remembered_stays(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("15W")
    run.do("7W")
    assert run.before == {"power_mode": "25W", "clocks": "free"}


def test_another_mode_keeps_its_own_clocks(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("25W")
    run.do("15W")
    kept = (run.board.home / CLOCKS_FILE).read_text(encoding="utf-8")
    assert "max_freq:612000000" in kept
    assert "emc/mrq_rate_locked:0" in kept
    assert "min_freq:306000000" in kept


@pytest.mark.parametrize(
    ("kind", "power", "reason"),
    [
        (NANO_PLAIN, "MAXN_SUPER", "--power takes 15W and 7W. Super needs JetPack"),
        (NANO_SUPER, "30W", "30W is a mode of AGX Orin"),
        (
            NANO_FORCED,
            "MAXN_SUPER",
            "only a label on this board: the GPU runs at 624.75 MHz at most instead of 918",
        ),
        (NANO_FORCED, "MAXN_SUPER", "jetson-orin-nano-devkit-super"),
        (NANO_FORCED, "25W", "25W is only a label on this board"),
    ],
)
def test_what_the_board_cannot_be_is_refused_beforehand(
    on: On, kind: PowerKind, power: str, reason: str
) -> None:
    run = on(kind)
    for refused in (run.look, run.do):
        with pytest.raises(InputError) as error:
            refused(power)
        assert reason in str(error.value)
    assert run.requests == []
    assert run.before == {}


def without_tops(board: PowerBoard) -> None:
    """A board that does not tell its hardware's highest clocks."""
    for file in [*board.root.rglob("available_frequencies"), *board.root.rglob("cpuinfo_max_freq")]:
        file.unlink()


def test_a_super_label_is_found_by_clocks_alone(on: On) -> None:
    run = on(NANO_FORCED)
    without_tops(run.board)
    with pytest.raises(InputError, match=r"MAXN_SUPER is only a label .* flashed with the -super board"):
        run.look("MAXN_SUPER")


def test_a_label_that_turns_out_to_lie_is_taken_back(on: On) -> None:
    run = on(NANO_FORCED)
    without_tops(run.board)
    run.board.fake("mode", "0\n")
    run.board.boot()
    with pytest.raises(BoardError, match=r"25W is only a label on this board: the GPU runs at 624.75 MHz at"):
        run.do("25W")
    assert run.requests == ["1", "0"]
    assert run.mode == "15W"


def test_low_clocks_under_the_right_label_are_set_again(on: On) -> None:
    run = on(NANO_SUPER)
    for file in run.board.root.glob("sys/class/devfreq/*/max_freq"):
        file.write_text("306000000\n", encoding="utf-8")
    assert run.look("25W").todo.startswith("set 25W")
    run.do("25W")
    assert run.requests == ["1"]
    assert str(read_power(run.board)) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz, pinned"


def test_clocks_that_do_not_follow_are_an_error_on_a_super_board_too(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("frozen")
    with pytest.raises(
        BoardError, match=r"15W is only a label on this board: the GPU runs at up to 918 MHz instead"
    ):
        run.do("15W")
    assert run.mode == "25W"


def test_a_label_that_does_not_follow_is_an_error(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("label", "25W")
    with pytest.raises(
        BoardError, match=r"the board took 15W but says it is in 25W; see what `ssh -t user@jetson sudo"
    ):
        run.do("15W")


def test_a_reboot_happens_only_when_allowed(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("25W")
    run.board.fake("asks-for", "3\n")
    with pytest.raises(InputError) as error:
        run.do("7W")
    assert str(error.value) == (
        "7W needs a reboot of the board: give --reboot, or do it yourself with `ssh -t user@jetson sudo "
        "nvpmodel -m 3` (answer YES) and flash again"
    )
    assert run.requests == ["3"]
    assert not (run.board.root / "fake/has-rebooted").exists()
    assert str(read_power(run.board)) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz, pinned"
    assert restored(run) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"


@pytest.mark.parametrize(("lingers", "refusals"), [(0, 0), (0, 3), (2, 1)])
def test_with_reboot_it_waits_for_the_next_boot(on: On, lingers: int, refusals: int) -> None:
    run = on(NANO_SUPER)
    run.board.fake("asks-for", "3\n")
    run.board.down = Down(lingers=lingers, refusals=refusals)
    done = run.do("7W", reboot=True)
    assert done.startswith("7W, GPU up to 408 MHz, CPU up to 960 MHz, pinned")
    assert run.time.pauses == max(lingers, 1) + refusals - (1 if lingers and refusals else 0)
    assert run.said == [
        "setting 7W (was 25W)",
        "7W needs a reboot: the board reboots",
        "waiting for the board, up to 5 minutes",
        "pinning the clocks",
    ]
    assert run.requests == ["3", "3"]


def test_a_board_that_does_not_come_back(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("asks-for", "3\n")
    run.board.down = Down(refusals=10_000)
    with pytest.raises(
        ConnectionLost, match=r"user@jetson did not come back within 5 minutes .* same command again"
    ):
        run.do("7W", reboot=True)
    assert run.time.now_s == 300
    assert run.time.pauses == 60


def test_a_mode_that_a_boot_forgets_is_set_again(on: On) -> None:
    run = on(AGX)
    run.board.fake("asks-for", "0\n")
    run.board.fake("forgets")
    with pytest.raises(BoardError, match=r"came back in MODE_30W and asks for another reboot to be in MAXN"):
        run.do("MAXN", reboot=True)
    (run.board.root / "fake/power/asks-for").unlink()
    run.board.fake("asks-once", "0\n")
    assert run.do("MAXN", reboot=True).startswith("MAXN, GPU up to 1300.5 MHz")
    assert "the board came back in MODE_30W; setting MAXN again" in run.said


@pytest.mark.parametrize("status", ["1\n", "0\n"])
def test_a_refusal_is_told_with_what_it_said(on: On, status: str) -> None:
    run = on(NANO_SUPER)
    run.board.fake("refuses", status)
    with pytest.raises(BoardError) as error:
        run.do("7W")
    assert str(error.value) == (
        "the board refused 7W: NVPM ERROR: request for bad power mode 3; see what "
        "`ssh -t user@jetson sudo nvpmodel -m 3` says"
    )
    assert run.mode == "25W"


def test_sudo_with_a_password_is_explained(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.files.sudo_needs_password()
    for power in ("7W", "25W"):
        with pytest.raises(InputError, match=r"^sudo on the board asks for a password \(sudo: a"):
            run.do(power)


def test_clocks_that_stay_free_are_an_error(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("unpinnable")
    with pytest.raises(BoardError, match=r"jetson_clocks ran, but the clocks are not pinned \(GPU up to 918"):
        run.do("25W")


def test_clocks_that_cannot_be_kept_are_not_pinned(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("broken")
    with pytest.raises(
        BoardError, match=r"^the clocks of before cannot be kept: .*stored nothing; see what `ssh -t"
    ):
        run.do("25W")
    assert not read_power(run.board).clocks.pinned


def test_clocks_that_cannot_be_given_back_leave_the_mode(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("25W")
    run.board.fake("broken")
    with pytest.raises(
        BoardError, match=r"^the clocks of before cannot be restored: Error: Unknown GPU!; see"
    ):
        run.do("15W")
    assert run.requests == []


def test_a_mode_that_needs_no_reboot_after_all(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.fake("asks-first", "3\n")
    assert run.do("7W", reboot=True).startswith("7W, GPU up to 408 MHz, CPU up to 960 MHz, pinned")
    assert run.time.pauses == 0


def test_a_board_that_will_not_reboot(on: On) -> None:
    run = on(NANO_SUPER)
    declined = SAMPLES / "nvpmodel-m-reboot-prompt-declined.txt"
    run.board.program("nvpmodel", f'[ "$1" = -q ] && exec echo\ncat {declined}; exit 234')
    with pytest.raises(
        BoardError, match=r"^the board did not reboot for 7W: NVPM ERROR: optMask is 1, no request"
    ):
        run.do("7W", reboot=True)


def test_a_board_that_cannot_run_the_script(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.program("sh", "echo sh: Input/output error >&2; exit 1")
    with pytest.raises(
        BoardError, match=r"^the power mode of user@jetson cannot be read: sh: Input/output error$"
    ):
        run.look("25W")


def test_a_board_without_nvpmodel(on: On) -> None:
    run = on(NANO_SUPER)
    (run.board.root / "etc/nvpmodel.conf").unlink()
    run.board.program("nvpmodel", "echo nvpmodel: not found >&2; exit 127")
    with pytest.raises(InputError, match=r"lists no power modes, so 25W cannot be set"):
        run.look("25W")


def restored(run: Run, *, reboot: bool = False) -> str:
    return restore(run.board, run.before, run.said.append, reboot=reboot, waiting=run.time.waiting)


@pytest.mark.parametrize("power", ["25W", "15W", "MAXN_SUPER"])
def test_rollback_goes_back_to_mode_and_clocks(on: On, power: str) -> None:
    run = on(NANO_SUPER)
    was = read_power(run.board)
    run.do(power)
    assert restored(run) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"
    assert read_power(run.board) == was
    assert restored(run) == ""


def test_rollback_of_nothing_does_nothing(on: On) -> None:
    run = on(NANO_SUPER)
    assert restored(run) == ""
    assert run.board.scripts == []


def test_rollback_to_a_version_that_had_pinned(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("25W")
    first, run.before = run.before, {}
    run.do("15W")
    assert run.before == {"power_mode": "25W", "clocks": "pinned"}
    assert restored(run) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz, pinned"
    run.before = first
    assert restored(run) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"


def test_clocks_that_the_user_pinned_stay_the_users(on: On) -> None:
    run = on(NANO_SUPER)
    run.board.run("sudo -n jetson_clocks")
    assert run.look("25W").todo == ""
    run.do("15W")
    assert run.before == {"power_mode": "25W", "clocks": "pinned"}
    assert restored(run) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz, pinned"


def test_rollback_that_needs_a_reboot(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("15W")
    run.board.fake("asks-for", "1\n")
    with pytest.raises(InputError, match="25W needs a reboot of the board: give --reboot"):
        restored(run)
    assert run.mode == "15W"
    assert restored(run, reboot=True) == "25W, GPU up to 918 MHz, CPU up to 1344 MHz"


def test_rollback_says_when_the_clocks_of_before_are_lost(on: On) -> None:
    run = on(NANO_SUPER)
    run.do("25W")
    (run.board.home / CLOCKS_FILE).unlink()
    assert restored(run).endswith("pinned until the board reboots, as its clocks of before were not kept")
