"""tegrastats as a process: read while a run goes on, started again when it dies, gone when the run is."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from runtime.live.board import Board
from runtime.live.board_reader import BoardOptions, available_mb, throttle_events, watching_board
from runtime.results.trace import Trace
from stages.tegrastats import MAX_CHARACTERS
from tests.support.samples import lines_of
from tests.support.tegrastats import (
    LOADED,
    STAY,
    board_options,
    sampled_linux,
    says,
    starts,
    tegrastats,
    write_linux,
)

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  (of another process)
            await anyio.sleep(0.01)


@dataclass
class Watched:
    board: Board
    trace: Trace
    said: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """What the board's counter of this name was, reading by reading."""
        return [e["args"]["value"] for e in self.trace.events()["traceEvents"] if e["name"] == name]


@asynccontextmanager
async def watched(options: BoardOptions) -> AsyncIterator[Watched]:
    trace, said = Trace(), list[str]()
    async with watching_board(options, trace, said.append) as board:
        yield Watched(board, trace, said)


def gone(pid: int) -> bool:
    """Whether a process is no more, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def runs(pid: int) -> bool:
    """Whether a process that is not ours runs; whoever it is left to may not have taken its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("unblocked_loop")
async def test_lines_are_readings_with_what_linux_tells_and_the_program_ends_with_the_run(
    tmp_path: Path,
) -> None:
    write_linux(tmp_path, available_mb=1234, oc2=15, oc3=37)
    lines = lines_of("tegrastats-orin-nano-super-jp7.2.1.txt")
    program = tegrastats(tmp_path / "bin", says(*lines), "sleep 600 &", f"echo $! > {tmp_path}/child", STAY)
    async with watched(board_options(tmp_path, program)) as run:
        await until(lambda: len(run.values("memory used (MB)")) == 2)
        await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
        status = run.board.status()
        ((pid, arguments),) = starts(program)
        assert not gone(pid)
    assert arguments == "--interval 1000"
    assert run.values("memory used (MB)") == [2850, 2845]
    assert status is not None
    assert (status.memory_used_mb, status.memory_available_mb) == (2845, 1234)
    assert status.throttle_events == {"average over-current": 0, "instantaneous over-current": 0}
    assert run.said == []
    assert gone(pid)
    await until(lambda: not runs(int((tmp_path / "child").read_text())))


async def test_one_that_dies_is_started_again(tmp_path: Path) -> None:
    write_linux(tmp_path)
    program = tegrastats(tmp_path, says(LOADED))
    async with watched(board_options(tmp_path, program)) as run:
        await until(lambda: len(run.values("memory used (MB)")) >= 3)
    pids = [pid for pid, _ in starts(program)]
    assert len(set(pids)) >= 3
    assert all(map(gone, pids))
    assert run.said == []


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ((says("tegrastats: \x1b[31mno such device"),), r"it prints 'tegrastats: \?\[31mno such device'"),
        (("exit 1",), "it ended without a line"),
        ((STAY,), "it says nothing for 0.2 s"),
        ((f"head -c {MAX_CHARACTERS + 1} /dev/zero", STAY), "it prints a line without an end"),
        (("printf '%s' 'RAM 1/2MB'",), "it ended without a line"),
    ],
    ids=["garbage", "nothing", "silent", "endless line", "half a line"],
)
async def test_one_that_gives_no_readings_is_told_once_and_tried_on(
    tmp_path: Path, commands: tuple[str, ...], reason: str
) -> None:
    write_linux(tmp_path)
    program = tegrastats(tmp_path, *commands)
    async with watched(board_options(tmp_path, program, silent_s=0.2)) as run:
        await until(lambda: len(starts(program)) >= 3)
    (said,) = run.said
    assert said.startswith(f"{program} gives no readings of the board (")
    assert re.search(reason, said), said
    assert run.board.status() is None
    assert run.board.summary() is None
    assert all(gone(pid) for pid, _ in starts(program))


async def test_a_line_that_is_damaged_costs_itself_alone(tmp_path: Path) -> None:
    write_linux(tmp_path)
    program = tegrastats(tmp_path, says("RAM x", LOADED), "printf '\\377\\376\\n'", says(LOADED), STAY)
    async with watched(board_options(tmp_path, program)) as run:
        await until(lambda: len(run.values("memory used (MB)")) == 2)
    assert run.said == []


async def test_one_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    said: list[str] = []
    async with watching_board(board_options(tmp_path, program), on_message=said.append):
        await until(lambda: said)
    assert "(it cannot be started: Exec format error)" in said[0]


async def test_without_tegrastats_nothing_is_read_or_said(tmp_path: Path) -> None:
    write_linux(tmp_path)
    async with watched(BoardOptions("tegrastats-of-nobody")) as run:
        assert run.board.status() is None
    assert (run.board.summary(), run.said) == (None, [])


async def test_an_error_of_the_run_comes_through_and_ends_it_too(tmp_path: Path) -> None:
    write_linux(tmp_path)
    program = tegrastats(tmp_path, STAY)

    async def failing() -> None:
        async with watched(board_options(tmp_path, program)):
            await until(lambda: starts(program))
            raise LookupError("the run's own")

    with pytest.raises(LookupError, match="the run's own"):
        await failing()
    assert gone(starts(program)[0][0])


def test_the_counters_of_a_throttled_board(tmp_path: Path) -> None:
    hwmon = sampled_linux(tmp_path)
    other = hwmon / "hwmon9"
    other.mkdir()
    (other / "name").write_text("ina3221\n")
    (other / "oc3_event_cnt").write_text("99\n")
    assert throttle_events(hwmon) == {
        "under-voltage": 0,
        "average over-current": 15,
        "instantaneous over-current": 37,
    }
    (hwmon / "hwmon3" / "oc2_event_cnt").write_text("not a number\n")
    assert "average over-current" not in throttle_events(hwmon)
    assert throttle_events(tmp_path / "absent") == {}


def test_available_memory_is_in_mb_and_none_where_linux_does_not_tell(tmp_path: Path) -> None:
    write_linux(tmp_path, available_mb=3790)
    assert available_mb(tmp_path / "meminfo") == 3790
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert available_mb(tmp_path / "meminfo") is None
    assert available_mb(tmp_path / "absent") is None
    assert (available_mb(BoardOptions().meminfo) or 0) > 0  # of this machine
