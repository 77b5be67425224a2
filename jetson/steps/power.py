"""The power step of `flash`: the power mode by name, its clocks pinned; and the way back for rollback.

Everything happens through jetson/scripts/power.sh. A mode counts as set when the clocks say so, not its
label; a reboot happens only when it is allowed. Nothing here was run on a board.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jetson import clocks, power
from jetson.connection import Board, BoardError, ConnectionLost, Ran
from jetson.power import Mode, Modes, Outcome
from jetson.steps.step import Job, Plan, Say, Step
from stages.errors import InputError, PedsamError

SCRIPT = "power.sh"
CLOCKS_FILE = "pedsam/state/clocks.txt"  # in the home folder; jetson_clocks' own file stays the user's
QUERY_S = 60
CHANGE_S = 120

# What `Job.remember` keeps.
MODE_BEFORE = "power_mode"  # the name of the mode, as the board spells it
CLOCKS_BEFORE = "clocks"  # FREE or PINNED
FREE, PINNED = "free", "pinned"


@dataclass(frozen=True, kw_only=True)
class PowerState:
    """A board's power mode and clocks as they are. `stored`: it keeps the clocks of before we pinned them."""

    modes: Modes
    current: Mode | None
    clocks: clocks.Clocks
    compatible: tuple[str, ...]
    over_current: Mapping[str, int]
    boot_id: str
    stored: bool = False
    relinked: bool = False  # nvpower.sh replaced the super configuration at this boot

    @property
    def mode_name(self) -> str:
        return self.current.name if self.current else "unknown"

    def is_in(self, mode: Mode) -> bool:
        """Whether the board is truly in this mode, by label and by clocks."""
        labelled = self.current is not None and power.same_name(self.current.name, mode.name)
        return labelled and not self.faults(mode)

    def faults(self, mode: Mode) -> list[str]:
        return clocks.faults(mode, self.modes, self.clocks)

    def __str__(self) -> str:
        pinned = ", pinned" if self.clocks.pinned else ""
        return f"{self.mode_name}, {self.clocks}{pinned}"


@dataclass(frozen=True)
class Waiting:
    """How to wait for a board that reboots; tests pass time in another way."""

    limit_s: float = 300.0
    pause_s: float = 5.0
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic


class PowerStep(Step):
    """Sets the mode that --power names and pins its clocks; left out without --power."""

    name = "power"

    def __init__(self, waiting: Waiting | None = None) -> None:
        self._waiting = waiting or Waiting()

    def look(self, job: Job) -> Plan:
        wanted_name = job.options.power
        if job.options.no_root:
            if wanted_name:
                raise InputError(
                    f"--power {wanted_name} needs root on the board, and there is no power step with "
                    "--no-root; leave one of the two out"
                )
            return Plan("no power step with --no-root")
        if wanted_name is None:
            return Plan("left as it is; --power NAME sets a mode")
        state = read_power(job.board)
        wanted = _reachable(state, wanted_name)
        return Plan(str(state), _todo(state, wanted))

    def do(self, job: Job, say: Say) -> str:
        if job.options.power is None or job.options.no_root:
            return "nothing to do"
        state = read_power(job.board)
        wanted = _reachable(state, job.options.power)
        for key, value in worth_remembering(state).items():
            job.remember(key, value)
        change = _Change(job.board, say, self._waiting, reboot=job.options.reboot)
        if not state.is_in(wanted):
            state = change.mode(state, wanted)
        change.pin(state)
        return f"{read_power(job.board)}{_memory(job.board)}"


def read_power(board: Board) -> PowerState:
    """Power mode, clocks and over-current counters of a board, now. Changes nothing, needs no root."""
    ran = board.script(SCRIPT, "query", CLOCKS_FILE, timeout_s=QUERY_S)
    parts = _sections(ran.out)
    if "boot" not in parts:
        raise BoardError(f"the power mode of {board.address} cannot be read: {ran.last_line}", ran.err)
    modes = power.parse_modes(parts["modes"])
    return PowerState(
        modes=modes,
        current=power.current_mode(modes, parts["current"], parts["status"]),
        clocks=clocks.parse_sysfs(parts["clocks"]),
        compatible=tuple(parts["compatible"].split()),
        over_current=clocks.parse_over_current(parts["over-current"]),
        boot_id=parts["boot"].strip(),
        stored=parts["stored"].strip() == "yes",
        relinked="from super to non-super" in parts["nvpower"],
    )


def worth_remembering(state: PowerState) -> dict[str, str]:
    """What `restore` needs to bring a board back into this state."""
    mode = {MODE_BEFORE: state.current.name} if state.current else {}
    return {**mode, CLOCKS_BEFORE: PINNED if state.clocks.pinned else FREE}


def restore(
    board: Board,
    before: Mapping[str, str],
    say: Say = lambda line: None,
    *,
    reboot: bool = False,
    waiting: Waiting | None = None,
) -> str:
    """Bring back the power mode and clocks that `worth_remembering` told; returns what was done, or "".

    Raises InputError when the mode needs a reboot and `reboot` does not allow it, as the step does.
    """
    if MODE_BEFORE not in before and CLOCKS_BEFORE not in before:
        return ""
    state = read_power(board)
    change = _Change(board, say, waiting or Waiting(), reboot=reboot)
    was = str(state)
    if before.get(CLOCKS_BEFORE) == FREE and state.clocks.pinned and state.stored:
        change.release()
        state = read_power(board)
    if MODE_BEFORE in before:
        mode = power.find_mode(state.modes, before[MODE_BEFORE], state.compatible)
        if not state.is_in(mode):
            state = change.mode(state, mode)
    if before.get(CLOCKS_BEFORE) == PINNED:
        change.pin(state)
    state = read_power(board)
    if before.get(CLOCKS_BEFORE) == FREE and state.clocks.pinned:
        return f"{state} until the board reboots, as its clocks of before were not kept"
    return "" if str(state) == was else str(state)


def _todo(state: PowerState, wanted: Mode) -> str:
    if not state.is_in(wanted):
        return f"set {wanted.name} (if that needs a reboot, only with --reboot) and pin its clocks"
    return "" if state.clocks.pinned else f"pin the clocks of {wanted.name}"


def _reachable(state: PowerState, name: str) -> Mode:
    """The mode of this name. Raises InputError when the board lacks it, or can only be labelled so."""
    mode = power.find_mode(state.modes, name, state.compatible)
    if wrong := clocks.out_of_reach(mode, state.modes, state.clocks):
        raise InputError(_lie(state, mode, wrong))
    if state.current == mode and power.lacks_super(state.compatible) and (wrong := state.faults(mode)):
        raise InputError(_lie(state, mode, wrong))
    return mode


def _lie(state: PowerState, mode: Mode, wrong: list[str]) -> str:
    """That a mode is one by label only, and why."""
    sentence = f"{mode.name} is only a label on this board: {', '.join(wrong)}"
    if state.modes.has_super and (power.lacks_super(state.compatible) or state.relinked):
        return f"{sentence}. {power.SUPER_NEEDS}; until then take a mode that it reaches"
    return f"{sentence}; take another of {state.modes.names}"


class _Change:
    """Changes of one board's power."""

    def __init__(self, board: Board, say: Say, waiting: Waiting, *, reboot: bool) -> None:
        self._board = board
        self._say = say
        self._waiting = waiting
        self._reboot = reboot

    def mode(self, state: PowerState, wanted: Mode) -> PowerState:
        """Set the mode, with a reboot where it needs one and may; returns the state after it, verified."""
        if state.clocks.pinned and state.stored:
            self.release()  # what is kept belongs to the mode it was kept in
        self._say(f"setting {wanted.name} (was {state.mode_name})")
        try:
            after = self._after(self._ask(wanted), state, wanted)
            self._verify(after, wanted)
        except PedsamError:
            self._back(state)
            raise
        return after

    def pin(self, state: PowerState) -> None:
        """Pin the clocks at the mode's highest, keeping those of before for `restore`."""
        if state.clocks.pinned:
            return
        self._say("pinning the clocks")
        self._checked("the clocks of before cannot be kept", "clocks-store", CLOCKS_FILE)
        self._checked("the clocks cannot be pinned", "clocks-pin")
        state = read_power(self._board)
        if not state.clocks.pinned:
            raise BoardError(
                f"jetson_clocks ran, but the clocks are not pinned ({state.clocks}); see what "
                f"{self._by_hand('jetson_clocks --show')} prints"
            )

    def release(self) -> None:
        """Give back the clocks of before our pinning."""
        self._checked("the clocks of before cannot be restored", "clocks-restore", CLOCKS_FILE)

    def _ask(self, wanted: Mode) -> Outcome:
        ran = self._run("set", str(wanted.number))
        result = power.outcome(ran.out, ran.status)
        if result is Outcome.REFUSED:
            by_hand = self._by_hand(f"nvpmodel -m {wanted.number}")
            raise BoardError(
                f"the board refused {wanted.name}: {ran.last_line}; see what {by_hand} says", ran.out
            )
        return result

    def _after(self, result: Outcome, state: PowerState, wanted: Mode) -> PowerState:
        """The state once the mode is set: at once, or after the reboot it needs."""
        if result is Outcome.CHANGED:
            return read_power(self._board)
        if result is Outcome.NEEDS_REBOOT and self._confirm(wanted) is Outcome.CHANGED:
            return read_power(self._board)
        return self._settled(self._wait(state.boot_id), wanted)

    def _confirm(self, wanted: Mode) -> Outcome:
        """Ask once more, with the reboot where it is allowed."""
        if not self._reboot:
            raise InputError(
                f"{wanted.name} needs a reboot of the board: give --reboot, or do it yourself with "
                f"{self._by_hand(f'nvpmodel -m {wanted.number}')} (answer YES) and flash again"
            )
        self._say(f"{wanted.name} needs a reboot: the board reboots")
        try:
            ran = self._run("set-and-reboot", str(wanted.number))
        except ConnectionLost:
            return Outcome.REBOOTING
        result = power.outcome(ran.out, ran.status)
        if result in (Outcome.REBOOTING, Outcome.CHANGED):
            return result
        raise BoardError(
            f"the board did not reboot for {wanted.name}: {ran.last_line}; reboot it with "
            f"{self._by_hand('reboot')} and flash again",
            ran.out,
        )

    def _wait(self, boot_id: str) -> PowerState:
        """The state of the board once it has booted again; its boot id must be another one."""
        minutes = f"{self._waiting.limit_s / 60:.0f} minutes"
        self._say(f"waiting for the board, up to {minutes}")
        until = self._waiting.clock() + self._waiting.limit_s
        while self._waiting.clock() < until:
            self._waiting.sleep(self._waiting.pause_s)
            state = self._reached()
            if state is not None and state.boot_id != boot_id:
                return state
        raise ConnectionLost(
            f"{self._board.address} did not come back within {minutes} of its reboot; see that it is on "
            "(switch it off and on if it hangs), then run the same command again"
        )

    def _reached(self) -> PowerState | None:
        """The board's state, or None while it is down."""
        try:
            self._board.reconnect()
            return read_power(self._board)
        except (InputError, BoardError, ConnectionLost):
            return None

    def _settled(self, state: PowerState, wanted: Mode) -> PowerState:
        """Some JetPacks come back in their default mode; then it is set once more, without another reboot."""
        if state.is_in(wanted):
            return state
        self._say(f"the board came back in {state.mode_name}; setting {wanted.name} again")
        if self._ask(wanted) is not Outcome.CHANGED:
            raise BoardError(
                f"the board came back in {state.mode_name} and asks for another reboot to be in "
                f"{wanted.name}; try {self._by_hand(f'nvpmodel -m {wanted.number}')}, or take another --power"
            )
        return read_power(self._board)

    def _verify(self, state: PowerState, wanted: Mode) -> None:
        if wrong := state.faults(wanted):
            raise BoardError(_lie(state, wanted, wrong))
        if not state.is_in(wanted):
            raise BoardError(
                f"the board took {wanted.name} but says it is in {state.mode_name}; see what "
                f"{self._by_hand('nvpmodel -q')} prints"
            )

    def _back(self, before: PowerState) -> None:
        """After a change that failed: the mode and pinned clocks of before, where that needs no reboot."""
        with contextlib.suppress(PedsamError):
            state = read_power(self._board)
            if before.current and not state.is_in(before.current):
                self._run("set", str(before.current.number))
                state = read_power(self._board)
            if before.clocks.pinned:
                self.pin(state)

    def _checked(self, trouble: str, *arguments: str) -> None:
        ran = self._run(*arguments)
        if ran.status or "Error:" in ran.out:
            by_hand = self._by_hand("jetson_clocks --show")
            raise BoardError(f"{trouble}: {ran.last_line}; see what {by_hand} says", ran.out)

    def _run(self, *arguments: str) -> Ran:
        ran = self._board.script(SCRIPT, *arguments, timeout_s=CHANGE_S)
        if ran.out.startswith("sudo:") or ran.err.startswith("sudo:"):
            raise InputError(
                f"sudo on the board asks for a password ({ran.last_line}); allow nvpmodel and jetson_clocks "
                f"without one ({self._by_hand('visudo -f /etc/sudoers.d/pedsam')}), or leave --power out"
            )
        return ran

    def _by_hand(self, command: str) -> str:
        return f"`ssh -t {self._board.address} sudo {command}`"


def _memory(board: Board) -> str:
    """The memory's clock, which only jetson_clocks tells."""
    shown = clocks.parse_show(board.script(SCRIPT, "clocks-show", timeout_s=QUERY_S).out)
    return f", memory at {clocks.mhz(shown.emc_hz)} MHz" if shown.emc_hz else ""


def _sections(text: str) -> dict[str, str]:
    """What follows each line `@@ NAME`, by NAME."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("@@ "):
            lines = parts.setdefault(line[3:].strip(), [])
        else:
            lines.append(line)
    return {name: "".join(found) for name, found in parts.items()}
