"""Measure this machine, all local and offloaded to sites, on the code that a run uses.

Frames are noise made here (runtime.bench.noise); neither a camera nor a file is read, and the ledger of runs
is not touched, since windows of noise show nobody anything. Frames go one after another first, so that each
step is timed alone, then as a run of a file overlaps them. Not in it: the camera, tracking, drawing and
writing results, detectors of --keep, spot checks.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from anyio import to_thread

from runtime.bench.measured import FRAME, LOCAL, OFFLOADED, STAGES, Measured, Overlapped, SiteShare
from runtime.bench.noise import NoiseSource, moving_noise
from runtime.check.site_speed import Patience, measure_way
from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.encoder import FrameLost
from runtime.frames.canvas import make_canvas
from runtime.live.board_reader import BoardOptions, watching_board
from runtime.objects.decode import decode
from runtime.objects.follower import Follower
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.tracking import FixedPrompt
from runtime.pipeline import Pipeline, PipelineOptions
from runtime.sites.client import SiteClient, choose_wire
from runtime.sites.config import SiteConfig
from runtime.sites.traffic import Traffic
from stages.bundle import Bundle
from stages.errors import InputError, ungrouped
from stages.machine import forget_peak, peak_bytes
from stages.places import edge_stages

WARM_UP = 2  # frames that are not counted, each way
LEAST = 3  # frames that are, however long they take, unless fewer are asked for
NO_WINDOW_STAGE = (
    "{} has no window stage, so that nothing can run all local here; give --sites to measure offloading "
    "alone, or copy the window stage to the edge"
)
FAILED = (
    "a site failed while frames were measured, so that there are no figures of these sites ({}); "
    "`pedsam check` looks at each"
)

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """`size` is (height, width) of the frames. Of each way at most `runs` frames go one after another, and
    as many overlapped; neither begins a frame after half of `seconds`, but the first LEAST."""

    size: tuple[int, int] = (1080, 1920)
    runs: int = 200
    seconds: float = 10.0
    board: BoardOptions = field(default_factory=BoardOptions)


async def bench(
    bundle: Bundle,
    sites: Sequence[SiteConfig],
    edge: EdgeOptions,
    options: BenchOptions,
    say: Say = lambda doing: None,
    tell: Say = lambda line: None,
) -> list[Measured]:
    """Both ways, as far as they can be had: all local where the bundle has the window stage, offloaded where
    there are `sites`, which are those that `edge` names. `say` gets what is being done, `tell` lines to keep.

    Raises a PedsamError for a bundle, a site or an engine that cannot be used, and for a site that fails on
    the way.
    """
    check_possible(bundle, edge)
    with tempfile.TemporaryDirectory(prefix="pedsam-bench-") as folder, ungrouped():
        # whatever an operator may see of noise, and in a ledger that goes with it
        alike = replace(edge, ledger=Path(folder) / "ledger.json", accept_exposure=True, spot_checks=0.0)
        if sites:
            say(f"asking {len(sites)} sites")
            await _require(bundle, sites, edge, tell)
        ways = [*([replace(alike, sites=None)] if bundle.has("window") else []), *([alike] if sites else [])]
        return [await _Bench(bundle, way, options, say, tell).run() for way in ways]


def check_possible(bundle: Bundle, edge: EdgeOptions) -> None:
    """Raise InputError where there is neither a window stage nor a site."""
    if edge.sites is None and not bundle.has("window"):
        raise InputError(NO_WINDOW_STAGE.format(bundle.path))


async def _require(bundle: Bundle, sites: Sequence[SiteConfig], edge: EdgeOptions, tell: Say) -> None:
    """Raise SiteError for the first site that cannot be used; one that is busy is waited for."""
    patience, probe = Patience(tell), bundle.probe()
    for config in sites:
        async with SiteClient(config, bundle, choose_wire(bundle, edge.wire), on_busy=patience) as client:
            await client.connect(probe)


@dataclass
class _Steps:
    """Frames one after another. `answered_s` and `tiles` by site; `sent` and `at_edge` windows in all."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*STAGES, FRAME)})
    ahead_s: list[float] = field(default_factory=list)
    answered_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    tiles: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    traffic: dict[str, Traffic] = field(default_factory=dict)
    sent: int = 0
    at_edge: int = 0

    @property
    def frames(self) -> int:
        return len(self.seconds[FRAME])


class _Bench:
    """One way, measured once."""

    def __init__(self, bundle: Bundle, edge: EdgeOptions, options: BenchOptions, say: Say, tell: Say) -> None:
        self._bundle = bundle
        self._options = edge
        self._bench = options
        self._way = OFFLOADED if edge.sites else LOCAL
        self._say = say
        self._tell = tell
        height, width = options.size
        self._prompt = Prompt("object", (width * 0.25, height * 0.25, width * 0.75, height * 0.75))
        self._frames = moving_noise(height, width)  # one frame after another: none is like the one before
        self._answers: list[tuple[str, float, float]] = []  # of the frame under way: site, start, end

    async def run(self) -> Measured:
        self._say(f"{self._way}: loading")
        counted = forget_peak()
        async with open_edge(
            self._bundle, [self._bench.size], self._options, self._tell, self._on_answer
        ) as edge:
            async with watching_board(self._bench.board, on_message=self._tell) as board:
                with _of_these_sites(edge):
                    steps = await self._one_after_another(edge)
                    overlapped = await self._overlapped(edge)
            peak = peak_bytes() if counted else None
            traffic = sum(steps.traffic.values(), Traffic())
            names = [*edge_stages(self._bundle), *(["window"] if "window" in edge.engines else [])]
            return Measured(
                self._way,
                steps.seconds,
                {name: edge.engines.engine(name).backend for name in names},
                overlapped,
                windows=(steps.at_edge + steps.sent) / steps.frames,
                at_edge=steps.at_edge / steps.frames,
                bytes_up=traffic.up / steps.frames,
                bytes_down=traffic.down / steps.frames,
                sites=await self._shares(edge, steps),
                board=board.summary(),
                peak_bytes=peak,
                ahead_s=steps.ahead_s,
            )

    async def _one_after_another(self, edge: Edge) -> _Steps:
        steps = _Steps()
        for number in range(WARM_UP):
            await self._frame(edge, _Steps(), number)
        traffic = {site.name: site.client.traffic + Traffic() for site in edge.sites}
        counts, end_s = replace(edge.encoder.statistics), time.perf_counter() + self._bench.seconds / 2
        while steps.frames < self._bench.runs and (steps.frames < LEAST or time.perf_counter() < end_s):
            self._say(f"{self._way}: one after another, frame {steps.frames + 1}")
            await self._frame(edge, steps, WARM_UP + steps.frames)
        steps.sent = edge.encoder.statistics.windows_sent - counts.windows_sent
        steps.at_edge = edge.encoder.statistics.local_windows - counts.local_windows
        steps.traffic = {site.name: site.client.traffic - traffic[site.name] for site in edge.sites}
        return steps

    async def _frame(self, edge: Edge, steps: _Steps, number: int) -> None:
        self._answers.clear()
        pixels = next(self._frames)
        marks_s = [time.perf_counter()]
        canvas = await to_thread.run_sync(make_canvas, pixels, self._bundle.geometry)
        marks_s.append(time.perf_counter())
        encoding = edge.encoder.start(canvas, number)
        await encoding.collect()
        marks_s.append(time.perf_counter())
        image_embedding = await encoding.finish()
        marks_s.append(time.perf_counter())
        (found,) = await decode(edge.engines, image_embedding, canvas, [self._prompt], order=number)
        marks_s.append(time.perf_counter())
        await to_thread.run_sync(canvas.to_frame_mask, found.logits)
        marks_s.append(time.perf_counter())
        canvas_s, collect_s, *others_s = (after - before for before, after in pairwise(marks_s))
        found_s = [canvas_s, encoding.inputs_s, collect_s - encoding.inputs_s, *others_s]
        for stage, taken_s in zip((*STAGES, FRAME), (*found_s, marks_s[-1] - marks_s[0]), strict=True):
            steps.seconds[stage].append(taken_s)
        steps.ahead_s.append(encoding.ahead_s)
        self._note_answers(steps)

    def _on_answer(self, site: str, window: int, start_s: float, end_s: float) -> None:
        self._answers.append((site, start_s, end_s))

    def _note_answers(self, steps: _Steps) -> None:
        left_s = min((start_s for _, start_s, _ in self._answers), default=0.0)
        last_s: dict[str, float] = {}
        for site, _, end_s in self._answers:
            steps.tiles[site] += 1
            last_s[site] = max(end_s, last_s.get(site, end_s))
        for site, end_s in last_s.items():
            steps.answered_s[site].append(end_s - left_s)

    async def _overlapped(self, edge: Edge) -> Overlapped:
        options = self._bench
        source = NoiseSource(self._frames, options.size, options.runs, options.seconds / 2, LEAST)
        self._say(f"{self._way}: overlapped")
        objects = ObjectRegistry(Prompts((self._prompt,)), FixedPrompt)
        pipeline = Pipeline(
            self._bundle.geometry,
            edge.encoder,
            Follower(edge.engines, objects),
            (),
            PipelineOptions(),
            lambda frames: self._say(f"{self._way}: overlapped, frame {frames}"),
        )
        measured = await pipeline.run(source)
        if measured.lost.count:
            raise FrameLost(next(iter(measured.lost.reasons.values())))
        fps = measured.frames / measured.wall_s
        return Overlapped(measured.frames, fps, measured.limited_by(edge.served_by_sites))

    async def _shares(self, edge: Edge, steps: _Steps) -> list[SiteShare]:
        shares = []
        for site in edge.sites:
            self._say(f"measuring the line to site {site.name}")
            traffic = steps.traffic[site.name]
            shares.append(
                SiteShare(
                    site.name,
                    site.operator,
                    steps.tiles[site.name] / steps.frames,
                    traffic.up / steps.frames,
                    traffic.down / steps.frames,
                    steps.answered_s[site.name],
                    await measure_way(site.client, self._bundle.probe()),
                )
            )
        return shares


@contextlib.contextmanager
def _of_these_sites(edge: Edge) -> Iterator[None]:
    """Raises InputError where a site failed within the block: its windows went elsewhere or were lost."""
    try:
        yield
    except FrameLost as exc:
        raise InputError(FAILED.format(exc)) from exc
    failed = [site for site in edge.sites if site.failures or not site.ready]
    if failed or edge.encoder.statistics.redispatched:
        why = next(
            (site.last_error for site in failed if site.last_error), "others had to compute its windows"
        )
        raise InputError(FAILED.format(why))
