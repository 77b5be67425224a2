"""What SIGINT, SIGTERM and SIGHUP do to a process of pedsam, from its first moment to its last.

Until a command begins its work there is nothing to lose: the process ends at once with 128 and the number of
the signal, which is what a shell shows of a process that the signal has killed. Most commands are then
interrupted by each of them as by Ctrl-C; `run` and `serve` have their own ways to end. What is left at the
very end, when the results are there, takes a moment, and they are ignored.

A SIGHUP that is ignored, as by nohup, stays so. Imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


def is_own_process() -> bool:
    """Whether this process is a command of pedsam, and no program that imports it."""
    folder, name = os.path.split(sys.argv[0])
    return name == "pedsam" or (os.path.basename(folder), name) == ("pedsam", "__main__.py")


def stop_signals() -> list[signal.Signals]:
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def exit_code(number: int) -> int:
    """Of a process that this signal has ended before it had done anything."""
    return 128 + number


def end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """The handler while nothing has begun."""
    os._exit(exit_code(number))


def handle(handler: Handler) -> None:
    for number in stop_signals():
        signal.signal(number, handler)


def interrupt_from_now_on() -> None:
    """Each of them raises KeyboardInterrupt, where it would have ended the process at once."""
    if signal.getsignal(signal.SIGTERM) is end_at_once:
        handle(signal.default_int_handler)


def leave(code: int) -> None:
    """Ignore them from now on, and end the process at once where threads are left that nobody waits for:
    Python would wait for them for ever, or abort where one is inside a library."""
    handle(signal.SIG_IGN)
    if threading.active_count() > 1:
        os._exit(code)
