"""Reads the board while a pipeline runs.

`tegrastats`, a program that JetPack has, prints a line a second; it is run beside the pipeline and ended with
it. Where there is none, as on any other machine, nothing is read. What tegrastats does not tell is read
beside each line: the memory that is available, and how often the supply's limits throttled the board.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import CancelScope, to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from runtime.live.board import Board, BoardReading
from runtime.results.trace import NO_TRACE, Trace
from stages.errors import InputError, printable, ungrouped
from stages.tegrastats import MAX_CHARACTERS, Tegrastats, parse_tegrastats

INTERVAL_MS = 1000
SILENT_S = 10.0  # tegrastats that says nothing for so long is started again
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # waits before it is started again; the last one repeats
# The counters of the SoC's over-current hardware, by their number.
THROTTLE_KINDS = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}


@dataclass(frozen=True)
class BoardOptions:
    """`program` is looked for in the PATH, unless it is a path. The other two are where Linux tells what
    tegrastats does not."""

    program: str = "tegrastats"
    hwmon: Path = Path("/sys/class/hwmon")
    meminfo: Path = Path("/proc/meminfo")
    retry_s: Sequence[float] = RETRY_S
    silent_s: float = SILENT_S


@contextlib.asynccontextmanager
async def watching_board(
    options: BoardOptions, trace: Trace = NO_TRACE, on_message: Callable[[str], None] = lambda text: None
) -> AsyncIterator[Board]:
    """The board, read while the block runs; one that shows nothing where there is no tegrastats.

    `on_message` gets a sentence, once, when tegrastats gives no readings.
    """
    board = Board(trace)
    program = shutil.which(options.program)
    if program is None:
        yield board
        return
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_Reader(program, options, board, on_message).run)
            try:
                yield board
            finally:
                tasks.cancel_scope.cancel()


class _Reader:
    """Runs tegrastats again and again, until it is cancelled."""

    def __init__(
        self, program: str, options: BoardOptions, board: Board, on_message: Callable[[str], None]
    ) -> None:
        self._program = program
        self._options = options
        self._board = board
        self._on_message = on_message
        self._failed = 0  # times in a row without a reading
        self._reason = ""  # why there was none

    async def run(self) -> None:
        while True:
            if not await self._run_once():
                self._failed += 1
                self._tell()
            await anyio.sleep(self._options.retry_s[min(self._failed, len(self._options.retry_s) - 1)])

    def _tell(self) -> None:
        if self._failed == 1:
            self._on_message(
                f"{self._program} gives no readings of the board ({self._reason}); it is started again until "
                f"it does: see what `{self._program} --interval {INTERVAL_MS}` prints"
            )

    async def _run_once(self) -> bool:
        """Whether there was a reading before it ended."""
        line = [self._program, "--interval", str(INTERVAL_MS)]
        self._reason = "it ended without a line"
        try:
            with CancelScope(shield=True):  # else one that was just started could be left behind
                # a session of its own: Ctrl-C is for the run, which ends this process itself
                process = await anyio.open_process(
                    line, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
                )
        except OSError as exc:
            self._reason = f"it cannot be started: {exc.strerror}"
            return False
        async with process:
            try:
                return await self._take_lines(process)
            finally:
                await _end(process)

    async def _take_lines(self, process: Process) -> bool:
        if process.stdout is None:
            raise RuntimeError("tegrastats was started without a pipe")
        lines, taken = BufferedByteReceiveStream(process.stdout), False
        while (line := await self._line(lines)) is not None:
            taken |= await self._take(line)
            self._failed = 0 if taken else self._failed
        return taken

    async def _line(self, lines: BufferedByteReceiveStream) -> str | None:
        """The next line; None when it ends, is silent for too long, or says what has no end."""
        with anyio.move_on_after(self._options.silent_s):
            try:
                return (await lines.receive_until(b"\n", MAX_CHARACTERS)).decode(errors="replace")
            except (anyio.IncompleteRead, anyio.EndOfStream):
                return None
            except anyio.DelimiterNotFound:
                self._reason = "it prints a line without an end"
                return None
        self._reason = f"it says nothing for {self._options.silent_s:g} s"
        return None

    async def _take(self, line: str) -> bool:
        try:
            stats = parse_tegrastats(line)
        except InputError:
            self._reason = f"it prints {printable(line.strip())[:80]!r}"
            return False
        self._board.take(await to_thread.run_sync(_beside, stats, self._options))
        return True


async def _end(process: Process) -> None:
    """Kill it with whatever it has started, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with CancelScope(shield=True):
        await process.wait()


def _beside(stats: Tegrastats, options: BoardOptions) -> BoardReading:
    """The reading with what tegrastats does not tell. Blocks."""
    return BoardReading(stats, available_mb(options.meminfo), throttle_events(options.hwmon))


def available_mb(meminfo: Path) -> int | None:
    """MemAvailable of /proc/meminfo in MB of 2**20 bytes; None where it is not told."""
    try:
        found = re.search(
            r"^MemAvailable:\s+([0-9]{1,15}) kB$", meminfo.read_text(encoding="utf-8"), re.MULTILINE
        )
    except (OSError, ValueError):
        return None
    return int(found[1]) // 1024 if found else None


def throttle_events(hwmon: Path) -> dict[str, int]:
    """How often the supply's limits throttled the board since it was started, by kind.

    From `oc*_event_cnt` of the hwmon device that is named soctherm_oc; empty where there is none.
    """
    events: dict[str, int] = {}
    for counter in sorted(hwmon.glob("*/oc*_event_cnt")):
        number = counter.name.removeprefix("oc").removesuffix("_event_cnt")
        with contextlib.suppress(OSError, ValueError):
            if (
                number.isdigit()
                and (counter.parent / "name").read_text(encoding="utf-8").strip() == "soctherm_oc"
            ):
                kind = THROTTLE_KINDS.get(int(number), f"oc{number}")
                events[kind] = int(counter.read_text(encoding="utf-8"))
    return events
