"""How a run that is asked to stop ends, at any moment of it.

The first Ctrl-C, SIGTERM or SIGHUP (the terminal is closed) does what is right at that moment: what is being
opened is let go, frames under way are finished, results that are being written are completed. The second one
gives up what is under way, and closes files. The third one ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from anyio import CancelScope

from stages.errors import PedsamError
from stages.stops import end_at_once, stop_signals


class Stop:
    """The wish to stop. `name` is that of the first signal, None before; `early` says whether it came before
    the first `then`."""

    def __init__(
        self, cancel: Callable[[], None], say: Callable[[str], None], let_go: Callable[[], None]
    ) -> None:
        self.name: str | None = None
        self.early = False
        self.aborted = False
        self._cancel = cancel
        self._say = say
        self._let_go = let_go
        self._action = self._end_early
        self._sentence = "stopping"
        self._signals = 0

    def then(self, sentence: str, action: Callable[[], None] = lambda: None) -> None:
        """What a signal that comes from now on says and does."""
        self._sentence, self._action = sentence, action

    @contextlib.contextmanager
    def instead_of_errors(self) -> Iterator[None]:
        """What goes wrong because of an early stop is no error."""
        try:
            yield
        except PedsamError:
            if not self.early:
                raise

    def handle(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 2:
            os._exit(1)
        asyncio.get_running_loop().call_soon_threadsafe(self._wish, signal.Signals(number).name)

    def _end_early(self) -> None:
        self.early = True
        self._let_go()
        self._cancel()

    def _wish(self, name: str) -> None:
        if self.name is not None:
            self.aborted = True
            self._cancel()
            return
        self.name = name
        self._say(self._sentence)
        self._action()


@contextlib.contextmanager
def stopping(say: Callable[[str], None], let_go: Callable[[], None]) -> Iterator[Stop]:
    """Signals stop what the block does: the first calls `let_go` and cancels it, until `Stop.then` says
    something else, and a second one cancels it at any time. `say` gets a sentence at the first. A block that
    was cancelled just ends.

    Raises KeyboardInterrupt after a second one.
    """
    with CancelScope() as scope:
        stop = Stop(scope.cancel, say, let_go)
        before = {number: signal.signal(number, stop.handle) for number in stop_signals()}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                # The rest takes a moment.
                signal.signal(number, signal.SIG_IGN if handler is end_at_once else handler)
    if stop.aborted:
        raise KeyboardInterrupt
