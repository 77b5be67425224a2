"""The terminal of every command, and the log that takes its place."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO

from rich.console import Console

LOG_COLUMNS = 200  # of tables, where no terminal says how wide it is
_NOBODY_READS = (errno.EPIPE, errno.EIO)  # a pipe whose reader has ended, a terminal that was closed


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

    `error` says why, unless somebody just stopped reading.
    """

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        with self._going_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno not in _NOBODY_READS:
                self.error = exc
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # for what is buffered, and what follows
            os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Standard output and errors as LastingOutput while the block runs. Raises what stopped the output."""
    before = sys.stdout, sys.stderr
    output, errors = map(LastingOutput, before)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before
    if output.error is not None:
        raise output.error


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
