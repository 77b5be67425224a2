"""What a person is told while a run goes on: one sentence for the terminal, the page and summary.json."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

import anyio
from rich.console import Console

from stages.errors import printable, ungrouped
from stages.repeats import EVERY_S, OTHERS, Repeats

KEPT = 100  # messages, the newest, that a summary has
KEPT_WARNINGS = 1000
LASTS_S = 10.0  # after which what a thing has come to is no coming and going
SHOWN_WARNINGS = 20  # on the terminal
MOST_REASONS = 30  # that are told within EVERY_S; what comes then is counted
# A number in a sentence makes it no other one, but for a name: "site 1: ...", "img_12.jpg".
_NUMBER = re.compile(r"(?<!\Asite )(?<![\w.-])\d+(?:\.\d+)*(?![\w-])(?!\.\w)")


@dataclass(frozen=True)
class _Held:
    """The newest text of a reason that was not told yet, which is so since `since_s` of the clock; it has
    overtaken others about the same thing."""

    text: str
    about: str | None
    overtaken: int
    since_s: float


class Messages:
    """Tells sentences on a console, and keeps them. Callable from every thread.

    `tell` is for what can repeat: the first of a reason is printed at once, later ones at most once in
    `every_s`, with their number. Of what is told about one thing, as that it fails and that it is back, only
    the newest is held back, so that the last line about it is true; where that line says otherwise the
    newest is told once it has held for LASTS_S. `warn` is for what is to be known of a
    run's results: each is kept, once.
    """

    def __init__(
        self, console: Console, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.newest: str | None = None
        self.warnings: list[str] = []
        self.console = console
        self._repeats = Repeats(every_s, clock, MOST_REASONS)
        self._clock = clock
        self._held: dict[str, _Held] = {}  # by reason, in the order of their last texts
        self._said: dict[str, str] = {}  # the reason of the last line about each thing
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._lock = threading.RLock()

    @property
    def lines(self) -> list[str]:
        """The newest lines that `tell` has printed."""
        return list(self._lines)

    def tell(self, text: str, reason: str | None = None, about: str | None = None) -> None:
        """Tell a sentence; `reason` None is the sentence itself with any number in it.

        `about` names the thing whose state it tells: what is held back about that is not told any more.
        """
        text = printable(text)
        with self._lock:
            self.newest = text
            counted = self._repeats.add(reason or _NUMBER.sub("#", text))
            self._hold(counted, text, about)
            if self._repeats.is_due(counted):
                self._report(counted)

    def warn(self, text: str) -> None:
        """Tell a sentence about the results, unless it was told, and keep it once."""
        text = printable(text)
        with self._lock:
            if text in self.warnings or len(self.warnings) > KEPT_WARNINGS:
                return
            if len(self.warnings) == KEPT_WARNINGS:
                text = f"there were more warnings than these {KEPT_WARNINGS}"
            self.newest = text
            self.warnings.append(text)
            if len(self.warnings) == SHOWN_WARNINGS + 1:
                self._print("there are more warnings; summary.json has them all")
            elif len(self.warnings) <= SHOWN_WARNINGS and text not in self._lines:
                self._print(f"warning: {text}")

    def report(self) -> None:
        """Tell what was held back and is due; to be called periodically."""
        with self._lock:
            for reason, held in list(self._held.items()):
                if self._repeats.is_due(reason) or self._has_changed(reason, held):
                    self._report(reason)

    def report_all(self) -> None:
        """Tell everything held back, at the end."""
        with self._lock:
            for reason in list(self._held):
                self._report(reason)

    def _hold(self, reason: str, text: str, about: str | None) -> None:
        """Hold back a text in the place of those that it overtakes."""
        overtaken, since_s = 0, self._clock()
        for other, held in list(self._held.items()):
            if other == reason:
                overtaken, since_s = overtaken + self._held.pop(other).overtaken, held.since_s
            elif about is not None and held.about == about:
                overtaken += self._held.pop(other).overtaken + self._repeats.forget(other)
        self._held[reason] = _Held(text, about, overtaken, since_s)

    def _has_changed(self, reason: str, held: _Held) -> bool:
        """Whether the last line about a thing says otherwise, and has for a while."""
        said = self._said.get(held.about) if held.about is not None else None
        return said not in (None, reason) and self._clock() - held.since_s >= LASTS_S

    def _report(self, reason: str) -> None:
        count, held = self._repeats.take(reason), self._held.pop(reason)
        text = held.text + _how_often(count, held.overtaken, reason)
        if held.about is not None:
            self._said[held.about] = reason
        self._lines.append(text)
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text)


def _how_often(count: int, overtaken: int, reason: str) -> str:
    if overtaken:
        return f" (the last of {count + overtaken} messages since)"
    if count == 1:
        return ""
    return f" (the last of {count} other messages)" if reason == OTHERS else f" ({count} times since)"


@contextlib.asynccontextmanager
async def telling(
    messages: Messages, warnings: Callable[[], Iterable[str]] = tuple, every_s: float = 1.0
) -> AsyncIterator[None]:
    """While the block runs, and once more at its end, warns of what `warnings` gives, and tells what was held
    back."""
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tell, messages, warnings, every_s)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                _warn(messages, warnings)
                messages.report_all()


async def _tell(messages: Messages, warnings: Callable[[], Iterable[str]], every_s: float) -> None:
    while True:
        _warn(messages, warnings)
        messages.report()
        await anyio.sleep(every_s)


def _warn(messages: Messages, warnings: Callable[[], Iterable[str]]) -> None:
    for text in warnings():
        messages.warn(text)
