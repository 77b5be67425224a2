"""The terminal of every command, and the log that takes its place."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, TextIO

from rich.console import Console

LOG_COLUMNS = 200  # of tables, where no terminal says how wide it is
PART_BYTES = 4096  # that a pipe which takes any takes at once
KEPT_BYTES = 1 << 20  # that nobody has read yet
MISSING = b"(lines are missing here, since nobody read them)\n"
PATIENCE_S = 10.0  # at the end, with a reader that reads nothing
# A pipe or a socket whose reader has ended, a terminal that was closed.
_NOBODY_READS = (errno.EPIPE, errno.ECONNRESET, errno.EIO)


def make_console(*, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> Console:
    """A console on standard output, on standard error, or on `file`; `width` of tables in characters.

    Sentences are one line each, however long: a terminal wraps them itself, and in a log they can be found.
    Text is shown as it is: what files, sites and TensorRT say has brackets and colons, and they are no markup
    and no emoji.
    """
    console = Console(
        stderr=stderr, file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True
    )
    if width is None and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = LOG_COLUMNS
    return console


class LastingOutput:
    """A text stream that goes on in silence once it cannot be written: work is not lost with its words.

    Nor does work wait for somebody to read them: what a pipe or a terminal does not take now is kept, up to
    KEPT_BYTES, and goes there with what is written later. `error` says why it cannot be written, unless
    somebody just stopped reading. Callable from every thread.
    """

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream
        self._kept = bytearray()
        self._missing = False  # since there was too much
        self._lock = threading.Lock()
        self._own = _never_waiting(stream)

    def write(self, text: str) -> int:
        if self._own is None:
            with self._going_on():
                self._stream.write(text)
        else:
            with self._lock:
                self._keep(text.encode(self._stream.encoding, self._stream.errors or "strict"))
                self._send()
        return len(text)

    def flush(self) -> None:
        if self._own is None:
            with self._going_on():
                self._stream.flush()
        else:
            with self._lock:
                self._send()

    def finish(self) -> None:
        """Have everything written, unless nobody reads any of it for PATIENCE_S."""
        self.flush()
        with self._lock:
            while self._own is not None and self._kept and self._takes(self._own, PATIENCE_S):
                self._send()
            if self._kept:
                self._to_nowhere()

    def close(self) -> None:
        """Of what was opened here; the stream stays open."""
        if self._own is not None and self._own != self._stream.fileno():
            os.close(self._own)
        self._own = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _keep(self, data: bytes) -> None:
        if len(self._kept) + len(data) > KEPT_BYTES:
            self._missing = True
        else:
            self._kept += (MISSING if self._missing else b"") + data
            self._missing = False

    @staticmethod
    def _takes(own: int, wait_s: float) -> bool:
        """Whether some bytes can be written now, or that cannot be known without trying."""
        poll = select.poll()
        poll.register(own, select.POLLOUT)
        return bool(poll.poll(wait_s * 1e3))

    def _send(self) -> None:
        """Write what is taken without waiting."""
        with self._going_on(), contextlib.suppress(BlockingIOError):
            while self._own is not None and self._kept and self._takes(self._own, 0):
                del self._kept[: os.write(self._own, self._kept[:PART_BYTES])]

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as exc:
            if exc.errno not in _NOBODY_READS:
                self.error = exc
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        """Drop what is buffered, and what follows."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        if self._own is not None:
            os.dup2(nowhere, self._own)
        os.close(nowhere)
        self._kept.clear()


def _never_waiting(stream: TextIO) -> int | None:
    """A descriptor for what the stream writes to, None where it has none. Of pipes and terminals it is a new
    one: that it never waits does not concern the programs that share the stream."""
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        with contextlib.suppress(OSError):  # then it is asked before each write whether it takes a part
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Standard output and errors as LastingOutput while the block runs."""
    before = sys.stdout, sys.stderr
    lasting = [LastingOutput(stream) for stream in before]
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        for stream in lasting:
            stream.finish()
            stream.close()
        sys.stdout, sys.stderr = before


def finish_output() -> None:
    """Have everything written. Raises what stopped standard output, inside lasting_output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LastingOutput):
            stream.finish()
    error = sys.stdout.error if isinstance(sys.stdout, LastingOutput) else None
    if error is not None:
        raise OSError(error.errno, error.strerror, "standard output") from error


def open_missing_streams() -> None:
    """Standard input, output and errors that the caller has closed lead nowhere.

    Otherwise the next files to be opened would take their places, and get what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(taken, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def print_anything() -> None:
    """A character or file name that the terminal's encoding lacks is shown escaped, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
