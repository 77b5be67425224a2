"""A peer in a process of its own, and what it took."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from benchmarks.peers.subjects import Settings, open_peer
from benchmarks.processes import peak_mb

END_S = 5.0  # for a process to end before it is killed
WORDS = 300  # characters of a library's reason that are kept


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock and of the processor, of all threads."""

    clock_s: float
    processor_s: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.clock_s + other.clock_s, self.processor_s + other.processor_s)


@dataclass(frozen=True)
class Turn:
    """One picture: to its image embedding, and from there to a mask."""

    embedding: Taken
    mask: Taken

    @property
    def both(self) -> Taken:
        return self.embedding + self.mask


class NotRun(Exception):
    """A peer that does not work here; the sentence says why."""


def taken(step: Callable[[], object]) -> Taken:
    clock_s, processor_s = time.perf_counter(), time.process_time()
    step()
    return Taken(time.perf_counter() - clock_s, time.process_time() - processor_s)


def _serve(name: str, settings: Settings, ours: Connection) -> None:
    """A turn for every message until the other end is closed. The first turn, not asked for, warms up."""
    try:
        peer = open_peer(name, settings)
        ours.send((peer.about, Turn(taken(peer.encode), taken(peer.mask))))
    except Exception as exc:  # whatever its library raises is the reason why it is left out
        ours.send(NotRun(f"{type(exc).__name__}: {' '.join(str(exc).split())[:WORDS]}"))
        return
    while True:
        try:
            ours.recv()
        except EOFError:
            return
        ours.send(Turn(taken(peer.encode), taken(peer.mask)))


class PeerProcess:
    """Opens a peer; `first` is its first turn, which compiles and allocates. Close with `with`.

    Raises NotRun where the peer does not work, or has not had its first turn after `limit_s`.
    """

    def __init__(self, name: str, settings: Settings, limit_s: float) -> None:
        self.name = name
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")  # nothing of ours in its memory
        self._process = context.Process(target=_serve, args=(name, settings, theirs), daemon=True)
        self._process.start()
        theirs.close()
        try:
            if not self._connection.poll(limit_s):
                raise NotRun(f"its first picture took longer than {limit_s:.0f} s")
            told = self._receive()
            if isinstance(told, NotRun):
                raise told
        except BaseException:
            self.close()
            raise
        self.about: str = told[0]
        self.first: Turn = told[1]

    def turn(self) -> Turn:
        """One more picture. Raises NotRun where the process has ended."""
        self._connection.send(None)
        turn: Turn = self._receive()
        return turn

    @property
    def peak_mb(self) -> float:
        """The most memory that the process has had, 10^6 bytes."""
        return peak_mb(self._process.pid or 0)

    def close(self) -> None:
        self._connection.close()  # which ends it, unless it computes
        self._process.join(END_S)
        self._process.kill()
        self._process.join()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise NotRun(f"its process ended with {self._process.exitcode}; out of memory?") from None
