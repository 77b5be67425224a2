"""Bytes on the way to a site and back: how many a message will have, and how many really went.

The length of a message follows from the record of the window stage and the number of windows alone, never
from what they show. What really went is counted as it is handed to the connection and read from it: bodies,
and apart from them the heads, which are the lines of HTTP before a body. TLS, TCP and IP add a few hundredths
to that, and a site that answers in chunks a few bytes a chunk; those are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from types import SimpleNamespace
from typing import TypeVar

import aiohttp
import numpy as np

from stages import wire
from stages.bundle import Stage
from stages.tensors import Array, TensorSpec

_T = TypeVar("_T")
_LINE = len(": \r\n")
_END = len("\r\n")


@dataclass
class Traffic:
    """Bytes to one or several sites and back, since the start; a request that fails counts as far as it came.

    Of a request that is broken off while it is written, all that was handed to the connection counts.
    """

    body_up: int = 0
    body_down: int = 0
    head_up: int = 0
    head_down: int = 0
    requests: int = 0

    @property
    def up(self) -> int:
        return self.body_up + self.head_up

    @property
    def down(self) -> int:
        return self.body_down + self.head_down

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(**{name: value - getattr(other, name) for name, value in vars(self).items()})

    def counting_requests(self) -> aiohttp.TraceConfig:
        """For an aiohttp.ClientSession: counts what it sends."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._head_sent)
        trace.on_request_chunk_sent.append(self._body_sent)
        return trace

    async def _head_sent(
        self, session: object, context: SimpleNamespace, sent: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        first = f"{sent.method} {sent.url.raw_path_qs} HTTP/1.1\r\n"
        lines = sum(len(name) + len(value.encode()) + _LINE for name, value in sent.headers.items())
        self.requests += 1
        self.head_up += len(first) + lines + _END

    async def _body_sent(
        self, session: object, context: SimpleNamespace, sent: aiohttp.TraceRequestChunkSentParams
    ) -> None:
        self.body_up += len(sent.chunk)

    def count_head(self, response: aiohttp.ClientResponse) -> None:
        """Count the head of an answer, which aiohttp keeps as it came but for its line ends."""
        first = f"HTTP/1.1 {response.status} {response.reason or ''}\r\n"
        lines = sum(len(name) + len(value) + _LINE for name, value in response.raw_headers)
        self.head_down += len(first) + lines + _END


def gigabytes_an_hour(size: float, seconds: float) -> float:
    """The rate of `size` bytes in so many seconds; 0 where no time passed."""
    return size * 3600e-9 / seconds if seconds else 0.0


@dataclass(frozen=True)
class MessageBytes:
    """Bytes of the bodies of so many `requests`, and of their answers."""

    up: int = 0
    down: int = 0
    requests: int = 1


def message_bytes(stage: Stage, outputs: Sequence[str], windows: int = 1) -> MessageBytes:
    """Bytes of the bodies of a request about so many windows that asks for `outputs`, and of a good answer.

    A site with a two-digit version, or with other software, answers with a few bytes more or less.
    """
    sent = _zeros(stage.inputs, windows)
    answer = _zeros([spec for spec in stage.outputs if spec.name in outputs], windows)
    up = wire.encode_request(sent, outputs)
    down = wire.encode_response(answer, dict.fromkeys(answer, True))
    return MessageBytes(len(up.body), len(down.body))


def _zeros(specs: Iterable[TensorSpec], windows: int) -> dict[str, Array]:
    return {spec.name: np.zeros((windows, *map(int, spec.shape[1:])), spec.dtype) for spec in specs}


def most_windows(stage: Stage, outputs: Sequence[str], most_bytes: int) -> int:
    """How many windows a request may hold so that neither it nor its answer has more bytes; at least 1."""

    def fits(windows: int) -> bool:
        size = message_bytes(stage, outputs, windows)
        return max(size.up, size.down) <= most_bytes

    return max(takewhile(fits, count(1)), default=1)


def even_parts(items: Sequence[_T], most: int) -> list[Sequence[_T]]:
    """As few parts as can be of at most so many, in order, and as equal as can be."""
    parts = -(-len(items) // most)
    return [items[len(items) * n // parts : len(items) * (n + 1) // parts] for n in range(parts)]


def frame_bytes(stage: Stage, outputs: Sequence[str], shares: Iterable[tuple[int, int]]) -> MessageBytes:
    """Bytes of a frame: for each site how many windows it gets, and how many of them may share a request."""
    parts = [len(part) for windows, most in shares for part in even_parts(range(windows), most)]
    sizes = {windows: message_bytes(stage, outputs, windows) for windows in set(parts)}
    up, down = (sum(getattr(sizes[windows], way) for windows in parts) for way in ("up", "down"))
    return MessageBytes(up, down, len(parts))
