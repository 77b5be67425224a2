"""Speed of a site and of the network to it, measured with probes and noise, never with a picture.

Bytes a second are what takes time beyond the round trip and the engine:

- up: CONNECTIONS requests at once of the size that the loop sends, holding noise that the site reads
  and refuses before any engine sees it. Rate: their bytes, heads included, / (the quickest round of several
  - round trip).
- down: the same tiles asked for twice, once with every output and once with `scale` alone. Upload and engine
  are the same in both, so the difference in time is what the difference in bytes took (quickest of each).

Both include what the two programs do per byte, and a difference too small to measure gives a lower bound.
TCP starts slowly: on long ways short transfers show less than the link could carry, as the loop's do too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from runtime.sites.answers import Busy
from runtime.sites.client import CONNECTIONS, SiteClient
from runtime.sites.traffic import Traffic, even_parts
from stages.bundle import Probe
from stages.errors import SiteError, ungrouped

PINGS = 7
ROUNDS = 5  # of an upload or download; slow ones end with the first after MEASURE_S
MEASURE_S = 2.0
DOWNLOAD_TILES = 4  # tiles in one request of the download
SHARED = 5  # tiles that may share a request: of a 16:9 frame, those of one of three sites
BURSTS = 9  # bursts of all sites together; the first one is not counted
OUTPUTS = ("embedding", "embedding_q8", "scale")
_RESOLUTION_S = 1e-3  # differences in time below this, or a twentieth of the whole, show nothing


@dataclass(frozen=True)
class Rate:
    """Megabits a second; `at_least`: the transfer was too quick to be measured beside the rest."""

    mbit_s: float
    at_least: bool


@dataclass(frozen=True)
class Way:
    """The way to a site: a small question and its answer, what it carries up and down.

    `up` and `down` are None when the site did not let them be measured.
    """

    round_trip_s: float
    up: Rate | None
    down: Rate | None

    def seconds(self, bytes_up: float, bytes_down: float) -> float:
        """What a request of so many bytes and its answer take on the way; at most, where a rate is a lower
        bound, and the round trip alone where there is none."""
        pairs = ((bytes_up, self.up), (bytes_down, self.down))
        return self.round_trip_s + sum(size * 8e-6 / rate.mbit_s for size, rate in pairs if rate)


@dataclass(frozen=True)
class Speed(Way):
    """A site alone: the way to it, and probes with several under way."""

    tiles_per_s: float


class Patience:
    """Tells once of each site that it is busy and waited for; see SiteClient."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, busy: Busy, patience_s: float) -> None:
        if busy.site not in self._told:
            self._told.add(busy.site)
            self._tell(
                f"site {busy.site}: answers {busy.status}, not ready ({busy.text}); waiting up to "
                f"{patience_s:.0f} s"
            )


async def measure_alone(client: SiteClient, probe: Probe) -> Speed:
    """One site while nothing else is sent. Raises SiteError when it fails at its probes."""
    way = await measure_way(client, probe)
    return Speed(way.round_trip_s, way.up, way.down, await _tiles_per_s(client, probe))


async def measure_way(client: SiteClient, probe: Probe) -> Way:
    """The way to one site while nothing else is sent. Raises SiteError when the site does not answer."""
    round_trip_s = await _round_trip_s(client)
    up = await _none_if_refused(_up(client, probe, round_trip_s))
    return Way(round_trip_s, up, await _none_if_refused(_down(client, probe)))


@dataclass(frozen=True)
class Together:
    """All sites at once: seconds each one takes for its windows of a frame, and what the edge computes then.

    `processor_s` are processor seconds of the edge a frame: encoding, TLS, decoding; `heads` are bytes of the
    heads of a request and of its answer.
    """

    sites_s: Mapping[str, float]
    processor_s: float
    heads: tuple[float, float] = (0.0, 0.0)


async def measure_together(
    clients: Mapping[str, SiteClient], tiles: Mapping[str, int], probe: Probe
) -> Together:
    """Send each site as many `tiles` as it has windows of a frame, as a run does, frame after frame.

    Round trip, transfers and waiting for each other at the edge are in it: what the loop gets. Medians of
    BURSTS - 1. Raises SiteError when a site fails.
    """
    await _frame(clients, tiles, probe)
    frames, processor_s, before = [], [], _traffic(clients)
    for _ in range(BURSTS - 1):
        started = time.process_time()
        frames.append(await _frame(clients, tiles, probe))
        processor_s.append(time.process_time() - started)
    seconds = {name: statistics.median(frame[name] for frame in frames) for name in frames[0]}
    sent = _traffic(clients) - before
    heads = sent.head_up / sent.requests, sent.head_down / sent.requests
    return Together(seconds, statistics.median(processor_s), heads)


def _traffic(clients: Mapping[str, SiteClient]) -> Traffic:
    return sum((client.traffic for client in clients.values()), Traffic())


async def _frame(
    clients: Mapping[str, SiteClient], tiles: Mapping[str, int], probe: Probe
) -> dict[str, float]:
    seconds: dict[str, float] = {}

    async def burst(name: str, count: int) -> None:
        client = clients[name]
        sizes = [len(part) for part in even_parts(range(count), client.most_windows)]
        calls = [partial(client.run_probe, probe, copies=size) for size in sizes]
        seconds[name] = await _timed(partial(_all, calls))

    with ungrouped():
        async with anyio.create_task_group() as tasks:
            for name, count in tiles.items():
                if count:
                    tasks.start_soon(burst, name, count)
    return seconds


async def _round_trip_s(client: SiteClient) -> float:
    """The median of PINGS on a connection that is open."""
    return statistics.median([await _timed(client.ping) for _ in range(PINGS)])


async def _none_if_refused(measuring: Awaitable[Rate]) -> Rate | None:
    """None when the site refuses; one that has failed fails at its tiles too."""
    try:
        return await measuring
    except SiteError:
        return None


async def _up(client: SiteClient, probe: Probe, round_trip_s: float) -> Rate:
    size = _tiles_a_request(client) * sum(array.nbytes for array in probe.inputs.values())
    sent = 0

    async def noise() -> None:
        nonlocal sent
        before = client.traffic.up
        await _concurrently(lambda: client.send_noise(size), CONNECTIONS)
        sent = client.traffic.up - before

    seconds = await _fastest(noise)
    return rate(sent, seconds, round_trip_s)


def _tiles_a_request(client: SiteClient) -> int:
    return min(client.most_windows, SHARED)


async def _down(client: SiteClient, probe: Probe) -> Rate:
    """Both kinds in turn, so that a disturbance affects both."""
    quickest: dict[tuple[str, ...], float] = {}
    received: dict[tuple[str, ...], int] = {}
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for outputs in (OUTPUTS, OUTPUTS[-1:]):
            before = client.traffic.body_down
            seconds = await _timed(partial(client.run_probe, probe, outputs, DOWNLOAD_TILES))
            received[outputs] = client.traffic.body_down - before
            quickest[outputs] = min(seconds, quickest.get(outputs, seconds))
        if time.perf_counter() - started > MEASURE_S:
            break
    more, less = OUTPUTS, OUTPUTS[-1:]
    return rate(received[more] - received[less], quickest[more], quickest[less])


def rate(size: int, seconds: float, without_s: float) -> Rate:
    """The rate of `size` bytes that made something take `seconds` instead of `without_s`."""
    resolution_s = max(_RESOLUTION_S, without_s / 20)
    taken_s = seconds - without_s
    return Rate(size * 8e-6 / max(taken_s, resolution_s), taken_s < resolution_s)


async def _tiles_per_s(client: SiteClient, probe: Probe) -> float:
    """With CONNECTIONS requests under way all the time, for MEASURE_S and at least two rounds of them."""
    copies = _tiles_a_request(client)
    ended_s: list[float] = []
    started = time.perf_counter()

    async def send() -> None:
        rounds = 0
        while rounds < 2 or time.perf_counter() - started < MEASURE_S:
            await client.run_probe(probe, copies=copies)
            ended_s.extend([time.perf_counter() - started] * copies)
            rounds += 1

    await _concurrently(send, CONNECTIONS)
    return steady_rate(sorted(ended_s), CONNECTIONS * copies)


def steady_rate(ended_s: Sequence[float], under_way: int) -> float:
    """Tiles a second from the moments at which tiles were done, ascending, when `under_way` always were.

    Counted from the end of the first round, in which the first tile takes as long as the round.
    """
    return (len(ended_s) - under_way) / max(ended_s[-1] - ended_s[under_way - 1], 1e-9)


async def _fastest(action: Callable[[], Awaitable[None]]) -> float:
    seconds: list[float] = []
    while len(seconds) < ROUNDS and sum(seconds) < MEASURE_S:
        seconds.append(await _timed(action))
    return min(seconds)


async def _concurrently(action: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    await _all([action] * count)


async def _all(actions: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run them at once. Raises the error of one that fails."""
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            for action in actions:
                tasks.start_soon(action)


async def _timed(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started
