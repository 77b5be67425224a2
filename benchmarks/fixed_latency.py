"""The pipeline around engines that only take time: what the loop itself costs, without the cost of a model.

The seams are those that real engines go through: the factories of the edge's EngineThread and the `make` of a
site. Everything else is what `pedsam run` and `pedsam serve` use, in one process over loopback.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from runtime.demo.demo import FRAME, photo
from runtime.encoder import ImageEncoder
from runtime.frames.sources import Frame, Source
from runtime.objects.follower import Follower
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.tracking import FixedPrompt
from runtime.pipeline import Pipeline, PipelineOptions
from runtime.results.measurements import RunMeasurements
from runtime.sites.client import REQUEST_BYTES, SiteClient
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import ExposureLedger
from runtime.sites.windows import HEDGE_FACTOR, open_sites
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, Probe
from stages.engines.engine import Engine
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.tensors import Array, TensorSpec

WIDTH, HEIGHT = FRAME
PROMPTS = Prompts((Prompt("cup", (150, 60, 450, 300)),))


class FixedEngine(Engine):
    """Takes `row_s` seconds for every row of a call and answers zeros, or the probe's answer to the probe.

    Every `stall_every`th row takes `stall_s` more. One that `fails` answers the probe alone. `calls` has the
    end of every call, on the clock of time.perf_counter, its rows and the seconds it really took.
    """

    def __init__(
        self,
        bundle: Bundle,
        stage: str,
        row_s: float,
        stall_every: int = 0,
        stall_s: float = 0.0,
        fails: bool = False,
    ) -> None:
        super().__init__(bundle.stage(stage))
        self.calls: list[tuple[float, int, float]] = []
        self.rows = 0
        self._row_s = row_s
        self._stall_every = stall_every
        self._stall_s = stall_s
        self._fails = fails
        self._probe = bundle.probe()

    @property
    def stalls(self) -> int:
        """How often it has stalled, the call under way included."""
        return self.rows // self._stall_every if self._stall_every else 0

    @property
    def backend(self) -> str:
        return f"{self._row_s * 1e3:.0f} ms a row"

    @property
    def preferred_batch(self) -> int:
        return 8

    def frame_s(self, frames: int, after_s: float) -> float:
        """Seconds for one of `frames`, at the pace of the calls that ended after a moment."""
        late = [(rows, seconds) for end_s, rows, seconds in self.calls if end_s > after_s]
        row_s = sum(seconds for _, seconds in late) / sum(rows for rows, _ in late)
        return row_s * sum(rows for _, rows, _ in self.calls) / frames

    def _activate(self) -> None:
        pass

    def _deactivate(self) -> None:
        pass

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        sizes = _axes(self.stage.inputs, feeds)
        if _all_equal(feeds, self._probe.inputs):
            time.sleep(self._row_s)
            return {name: _probe_answer(self._probe, name) for name in outputs}
        if self._fails:
            raise EngineError("this engine answers nothing but the probe")
        started = time.perf_counter()
        rows = sizes.get("n", 1)
        stalls_before, self.rows = self.stalls, self.rows + rows
        time.sleep(self._row_s * rows + self._stall_s * (self.stalls - stalls_before))
        ended = time.perf_counter()
        self.calls.append((ended, rows, ended - started))
        return {spec.name: _zeros(spec, sizes) for spec in self.stage.outputs if spec.name in outputs}


def _all_equal(feeds: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    return feeds.keys() == others.keys() and all(np.array_equal(feeds[name], others[name]) for name in feeds)


def _axes(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> dict[str, int]:
    """Sizes of the named axes."""
    pairs = [pair for spec in specs for pair in zip(spec.shape, arrays[spec.name].shape, strict=True)]
    return {axis: size for axis, size in pairs if isinstance(axis, str)}


def _zeros(spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    return np.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape], spec.dtype)


def _probe_answer(probe: Probe, output: str) -> Array:
    """As the window stage rounds it: int8 with one scale a token, or fp16."""
    scale = np.maximum(np.abs(probe.embedding).max(axis=-1, keepdims=True) / 127, 2.0**-14)
    scale = scale.astype(np.float16)
    rounded: dict[str, Array] = {
        "embedding": probe.embedding.astype(np.float16),
        "embedding_q8": np.rint(probe.embedding / scale).clip(-128, 127).astype(np.int8),
        "scale": scale,
    }
    return rounded[output]


class Film(Source):
    """So many frames in memory, each other in every window."""

    is_sequence = True

    def __init__(self, frames: int) -> None:
        self.count = frames
        self._picture = np.resize(photo("coffee")[:HEIGHT], (HEIGHT, WIDTH, 3))

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({(HEIGHT, WIDTH)})

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.count or 0):
            yield Frame(number, f"{number:04}", float(number), np.roll(self._picture, 3 * number, axis=1))


class LiveFilm(Film):
    """The same as a camera that has every frame at once."""

    live = True


@dataclass(frozen=True)
class Profile:
    """Seconds of every engine: of a site for one tile, of the edge for one frame's global stage and masks.

    Each of `operators` is one site's operator. The first site stalls for `stall_s` every `stall_every` tiles;
    the last of all, of an operator that `failing` names, fails all of its tiles.
    """

    tile_s: float
    global_s: float
    decoder_s: float
    operators: str = "abc"
    stall_every: int = 0
    stall_s: float = 0.0
    failing: str = ""


@dataclass
class FixedRun:
    """A pipeline that is ready to run, and its engines."""

    pipeline: Pipeline
    encoder: ImageEncoder
    at_edge: list[FixedEngine] = field(default_factory=list)
    at_sites: list[FixedEngine] = field(default_factory=list)


@asynccontextmanager
async def fixed_run(
    bundle: Bundle, profile: Profile, in_flight: int, hedge_factor: float | None = HEDGE_FACTOR
) -> AsyncIterator[FixedRun]:
    """Sites and an edge with the engines of `profile`, open while the block runs."""
    async with AsyncExitStack() as stack:
        operators = profile.operators + profile.failing
        engines_of_sites = [_site_engine(bundle, profile, number) for number in range(len(operators))]
        sites = [
            SiteConfig(f"{operator}{number}", operator, await stack.enter_async_context(_url(bundle, engine)))
            for number, (operator, engine) in enumerate(zip(operators, engines_of_sites, strict=True))
        ]
        edge = fixed_edge(bundle, sites, profile, in_flight, hedge_factor)
        run = await stack.enter_async_context(edge)
        run.at_sites = engines_of_sites[: len(profile.operators)]
        yield run


@asynccontextmanager
async def fixed_edge(
    bundle: Bundle,
    sites: Sequence[SiteConfig],
    profile: Profile,
    in_flight: int,
    hedge_factor: float | None = HEDGE_FACTOR,
    wire_format: str = "fp16",
    request_bytes: int = REQUEST_BYTES,
) -> AsyncIterator[FixedRun]:
    """An edge with the engines of `profile`, whatever sites there are, open while the block runs."""
    windows = frozenset(bundle.geometry.windows_with_picture(HEIGHT, WIDTH))
    async with AsyncExitStack() as stack:
        seconds = {"global": profile.global_s, "decoder": profile.decoder_s}
        at_edge = {name: FixedEngine(bundle, name, each) for name, each in seconds.items()}
        factories = {name: partial(_same, engine) for name, engine in at_edge.items()}
        engines = await stack.enter_async_context(EngineThread(factories))
        operators = {site.operator for site in sites}
        caps = dict.fromkeys(operators, -(-len(windows) // len(set(profile.operators))))
        ledger = ExposureLedger.open(None, {site.name: site.operator for site in sites}, caps)
        clients = [SiteClient(site, bundle, wire_format, request_bytes=request_bytes) for site in sites]
        opening = open_sites(
            bundle, clients, ledger, windows, print, window_engine=False, hedge_factor=hedge_factor
        )
        encoder = ImageEncoder(bundle, engines, await stack.enter_async_context(opening), None)
        follower = Follower(engines, ObjectRegistry(PROMPTS, FixedPrompt))
        pipeline = Pipeline(bundle.geometry, encoder, follower, (), PipelineOptions(in_flight))
        yield FixedRun(pipeline, encoder, list(at_edge.values()))


def _site_engine(bundle: Bundle, profile: Profile, number: int) -> FixedEngine:
    stalls = (profile.stall_every, profile.stall_s) if number == 0 else (0, 0.0)
    fails = number >= len(profile.operators)
    return FixedEngine(bundle, "window", profile.tile_s, *stalls, fails=fails)


def _same(engine: FixedEngine) -> FixedEngine:
    return engine


@asynccontextmanager
async def _url(bundle: Bundle, engine: FixedEngine) -> AsyncIterator[str]:
    async with running_site(bundle, ServeOptions(port=0), lambda bundle: engine) as site:
        yield site.url


async def steady(bundle: Bundle, profile: Profile, in_flight: int, frames: int) -> dict[str, Any]:
    """Frames per second of the last frames against the slowest stage, as its engine really took.

    The global stage and the mask decoder of a frame run one after the other on the edge's engine thread, so
    together they are one stage.
    """
    async with fixed_run(bundle, profile, in_flight) as run:
        measured = await run.pipeline.run(Film(frames))
        since_s = measured.done_s[0]
        busy_s = {
            "sites": max(engine.frame_s(frames, since_s) for engine in run.at_sites),
            "edge": sum(engine.frame_s(frames, since_s) for engine in run.at_edge),
        }
    slowest = max(busy_s, key=lambda name: busy_s[name])
    fps = _fps(measured, in_flight)
    return {
        "in_flight": in_flight,
        "frames": measured.frames,
        "fps": round(fps, 3),
        "slowest_stage": slowest,
        "slowest_stage_ms": round(busy_s[slowest] * 1e3, 2),
        "ratio": round(fps * busy_s[slowest], 4),
    }


async def beside_failing(bundle: Bundle, profile: Profile, frames: int) -> dict[str, Any]:
    """Frames per second of the last frames, and how often a window had to go elsewhere."""
    in_flight = PipelineOptions().in_flight
    async with fixed_run(bundle, profile, in_flight) as run:
        measured = await run.pipeline.run(Film(frames))
        redispatched = run.encoder.statistics.redispatched
    return {
        "failing_sites": len(profile.failing),
        "frames": measured.frames,
        "frames_lost": measured.lost.count,
        "windows_redispatched": redispatched,
        "fps": round(_fps(measured, in_flight), 3),
    }


async def stragglers(bundle: Bundle, profile: Profile, hedged: bool, frames: int) -> dict[str, Any]:
    """Latencies of frames while one site stalls now and then."""
    async with fixed_run(bundle, profile, 2, HEDGE_FACTOR if hedged else None) as run:
        measured = await run.pipeline.run(Film(frames))
        engine = run.at_sites[0]
        counts = run.encoder.statistics
    latency = measured.seconds["end_to_end"].percentiles()
    return {
        "hedging": hedged,
        "frames": measured.frames,
        "frames_lost": measured.lost.count,
        "windows_hedged": counts.hedged,
        "stalls": engine.stalls,
        "latency_ms": {name: round(value * 1e3, 1) for name, value in latency.items()},
        "fps": round(measured.frames / measured.wall_s, 3),
    }


def _fps(measured: RunMeasurements, in_flight: int) -> float:
    """Over the frames whose ends are kept, less the last ones, which nothing follows."""
    ends_s = list(measured.done_s)[: -in_flight - 2]
    return (len(ends_s) - 1) / (ends_s[-1] - ends_s[0])
