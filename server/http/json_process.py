"""A process of its own that reads and writes JSON, and what the site does when it dies or hangs.

It is started by the first call that needs it and again by the next one after it was lost. A call that gets
no answer in time has the process killed, for it may be stopped, or out of memory, or at work on hostile text
for too long; a process whose pipe breaks is killed too. Nothing waits for it without a deadline.

On its pipes each message is a pickled value after its length, 8 bytes, little-endian. Only a site and the
process that it has started itself have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import anyio

from server.limits import Busy

T = TypeVar("T")

END_S = 5.0  # for a process that was killed to be gone
_LENGTH_BYTES = 8
_PR_SET_PDEATHSIG = 1
# OSError: of a pipe that breaks, or of files or processes there are no more for a new one.
_BROKEN = (OSError, asyncio.IncompleteReadError, pickle.UnpicklingError, EOFError)


class JsonUnavailable(Busy):
    """The process was lost, is late, or has too much to do."""

    reason = "json_process"


class JsonProcess:
    """Calls functions in the process, one at a time, each within `answer_s`, the start of it included."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._call: asyncio.Task[Any] | None = None
        self._closed = False

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What `function` returns there, or raises. Raises JsonUnavailable when the process is lost, late,
        or has too many calls before this one.

        Cancelling leaves a call that has begun to finish; its result is dropped.
        """
        try:
            with anyio.fail_after(self._answer_s):
                await self._turn.acquire()
        except TimeoutError as exc:
            raise JsonUnavailable("more JSON to read than it can") from exc
        self._call = asyncio.create_task(self._ask(function, arguments), name="json")
        self._call.add_done_callback(self._called)
        result: T = await asyncio.shield(self._call)
        return result

    async def close(self) -> None:
        """Kill the process: calls raise JsonUnavailable. Closing again does nothing.

        Returns when the process is gone, after END_S at the latest.
        """
        self._closed = True
        await self._kill()
        if self._call is not None:
            await asyncio.wait([self._call], timeout=END_S)

    def _called(self, call: asyncio.Task[Any]) -> None:
        self._turn.release()
        if not call.cancelled():
            call.exception()  # who made the call may be gone: then nobody else looks at it

    async def _ask(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        try:
            with anyio.fail_after(self._answer_s):
                self._check_open()
                if self._process is None or self._process.returncode is not None:
                    self._process = await _started()
                    self._check_open()
                failed, value = await _exchange(self._process, (function, arguments))
        except TimeoutError as exc:
            await self._kill()
            raise JsonUnavailable(f"not read or written this JSON within {self._answer_s:g} s") from exc
        except _BROKEN as exc:  # killed, perhaps for its memory
            await self._kill()
            raise JsonUnavailable("no process left to read JSON with") from exc
        if failed:
            raise value
        return value

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionAbortedError

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(ProcessLookupError):
            if process.returncode is None:  # process.kill() would reap it, which asyncio's own watcher does
                os.kill(process.pid, signal.SIGKILL)
            with anyio.move_on_after(END_S):
                await process.wait()


async def _started() -> Process:
    """A new process. It finds the modules where this one does, wherever it was started."""
    line = (
        f"import sys; sys.path[:] = {sys.path!r}; from server.http import json_process; json_process.main()"
    )
    # In a session of its own: the terminal's Ctrl-C is for the site, which ends it.
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", line, stdin=PIPE, stdout=PIPE, start_new_session=True
    )


async def _exchange(process: Process, call: object) -> tuple[bool, Any]:
    """Whether the call failed, and its result or error."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    process.stdin.write(_framed(call))
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES), "little")
    failed, value = pickle.loads(await process.stdout.readexactly(length))  # noqa: S301  (our own process)
    return failed, value


def _framed(value: object) -> bytes:
    body = pickle.dumps(value)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def main() -> None:
    """In the process: answer calls until the site is gone, however it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager tells every process: it serves on
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also while it is stopped
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # whatever prints does not print among the answers
        for function, arguments in _calls(sys.stdin.buffer):
            answers.write(_framed(_outcome(function, arguments)))
            answers.flush()


def _calls(stream: BinaryIO) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    while length := int.from_bytes(stream.read(_LENGTH_BYTES), "little"):
        yield pickle.loads(stream.read(length))  # noqa: S301  (from the site that started this)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return False, function(*arguments)
    except Exception as exc:
        return True, exc
