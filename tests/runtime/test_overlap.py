"""Which steps of the pipeline run at once. How many frames a second that gives is measured by
`benchmarks.throughput`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import anyio
import pytest
from aiohttp import web

from benchmarks.fixed_latency import PROMPTS, Film, FixedEngine, LiveFilm, Profile, steady
from runtime.encoder import ImageEncoder
from runtime.objects.follower import Follower
from runtime.objects.registry import ObjectRegistry
from runtime.objects.tracking import FixedPrompt
from runtime.pipeline import Pipeline, PipelineOptions, frames_ahead
from runtime.results.measurements import QUEUE, RunMeasurements
from runtime.results.result import FrameResult
from runtime.results.sinks import Sink
from runtime.results.trace import Trace
from runtime.sites.client import SiteClient
from runtime.sites.windows import open_sites
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.tensors import Array
from tests.support.edge import PATIENT, Impostor, canvas_of, config, ledger_for

pytestmark = pytest.mark.anyio

FRAMES = 5
WINDOWS = 15  # of a 16:9 frame
PATIENCE_S = 60.0
LATE_S = 0.5


class Count:
    """A number that grows, and threads that wait for it."""

    def __init__(self) -> None:
        self._value = 0
        self._grown = threading.Condition()

    def add(self) -> None:
        with self._grown:
            self._value += 1
            self._grown.notify_all()

    def wait_for(self, value: int) -> None:
        with self._grown:
            if not self._grown.wait_for(lambda: self._value >= value, PATIENCE_S):
                raise TimeoutError(f"expected {value}, saw {self._value}")


class HeldEngine(FixedEngine):
    """Takes no time, but calls `hold` with the number of every call first."""

    def __init__(self, bundle: Bundle, stage: str, hold: Callable[[int], None]) -> None:
        super().__init__(bundle, stage, 0.0)
        self._hold = hold

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self._hold(len(self.calls))
        return super()._infer(feeds, outputs)


class HeldSink(Sink):
    """Calls `hold` with the number of every frame."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self._hold = hold

    def write(self, result: FrameResult) -> None:
        self._hold(result.frame.number)

    def close(self) -> None:
        pass


async def late(site: Impostor, request: web.Request) -> web.StreamResponse:
    """What a site answers after LATE_S."""
    await anyio.sleep(LATE_S)
    return await site.answer(request)


async def run_held(
    bundle: Bundle,
    in_flight: int = 1,
    holds: Mapping[str, Callable[[int], None]] | None = None,
    answered: Count | None = None,
    trace: Trace | None = None,
    live: bool = False,
    site_is_late: bool = False,
) -> RunMeasurements:
    """FRAMES frames through two sites and engines, each held by what `holds` has for its step."""
    hold = {name: (holds or {}).get(name, lambda number: None) for name in ("global", "decoder", "write")}
    factories = {name: partial(HeldEngine, bundle, name, hold[name]) for name in ("global", "decoder")}
    async with AsyncExitStack() as stack:
        manner = [late] * (FRAMES * WINDOWS) if site_is_late else []
        impostors = {name: Impostor(bundle, *manner) for name in "ab"}
        sites = [
            config(name, await stack.enter_async_context(each.running())) for name, each in impostors.items()
        ]
        clients = [SiteClient(site, bundle, "fp16", PATIENT) for site in sites]
        engines = await stack.enter_async_context(EngineThread(factories))
        opening = open_sites(
            bundle,
            clients,
            ledger_for(sites, 8),
            canvas_of("16:9", bundle.geometry).windows,
            print,
            window_engine=False,
            hedge_factor=None,
            on_answer=lambda *answer: answered.add() if answered is not None else None,
        )
        encoder = ImageEncoder(bundle, engines, await stack.enter_async_context(opening), None)
        sinks = [HeldSink(hold["write"])]
        follower = Follower(engines, ObjectRegistry(PROMPTS, FixedPrompt))
        options = PipelineOptions(in_flight)
        pipeline = Pipeline(bundle.geometry, encoder, follower, sinks, options, trace=trace or Trace())
        with anyio.fail_after(2 * PATIENCE_S):
            return await pipeline.run((LiveFilm if live else Film)(FRAMES))


def spans_of(trace: Trace) -> dict[tuple[str, str], tuple[float, float]]:
    """Start and end, in microseconds, by step and frame."""
    events = trace.events()["traceEvents"]
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return {
        (lanes[event["tid"]].partition(" (")[0], event["name"]): (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event["ph"] == "X"
    }


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_windows_of_the_next_frames_come_while_the_global_stage_runs(
    mini_bundle: Bundle, in_flight: int
) -> None:
    """The global stage of a frame ends after the windows of the next `in_flight` frames were answered."""
    answered, trace = Count(), Trace()

    def hold(number: int) -> None:
        answered.wait_for(WINDOWS * min(FRAMES, number + 1 + in_flight))

    measured = await run_held(mini_bundle, in_flight, {"global": hold}, answered, trace)
    assert (measured.frames, measured.lost.count) == (FRAMES, 0)
    spans = spans_of(trace)
    for number in range(FRAMES - 1):
        windows_start, _ = spans["windows", f"frame {number + 1}"]
        _, global_end = spans["global", f"frame {number}"]
        assert windows_start < global_end


async def test_the_next_frame_is_computed_while_results_are_written(mini_bundle: Bundle) -> None:
    """A frame's results are written only after the masks of the next frame were computed."""
    decoded = Count()

    def hold(number: int) -> None:
        decoded.wait_for(min(FRAMES, number + 2))

    holds = {"decoder": lambda number: decoded.add(), "write": hold}
    measured = await run_held(mini_bundle, holds=holds)
    assert (measured.frames, measured.lost.count) == (FRAMES, 0)


async def test_the_windows_of_a_frame_are_under_way_while_masks_are_decoded(mini_bundle: Bundle) -> None:
    """The decoder ends a frame only after the windows of the next one were answered."""
    answered = Count()

    def hold(number: int) -> None:
        answered.wait_for(WINDOWS * min(FRAMES, number + 2))

    measured = await run_held(mini_bundle, 1, {"decoder": hold}, answered)
    assert (measured.frames, measured.lost.count) == (FRAMES, 0)


async def test_a_live_frame_gets_its_masks_before_the_next_global_stage(mini_bundle: Bundle) -> None:
    trace = Trace()
    holds = {"decoder": lambda number: time.sleep(LATE_S)}
    measured = await run_held(mini_bundle, holds=holds, trace=trace, live=True)
    assert (measured.frames, measured.lost.count) == (FRAMES, 0)
    spans = spans_of(trace)
    for number in range(FRAMES - 1):
        assert spans["decode", f"frame {number}"][1] <= spans["global", f"frame {number + 1}"][0]


async def test_a_live_frame_is_not_read_before_it_is_needed(mini_bundle: Bundle) -> None:
    """The engines take longer than the windows, so one frame ahead is enough, whatever may be."""
    trace = Trace()
    holds = {"global": lambda number: time.sleep(LATE_S)}
    measured = await run_held(mini_bundle, 3, holds, trace=trace, live=True)
    assert (measured.frames, measured.in_flight) == (FRAMES, 1)
    spans = spans_of(trace)
    for number in range(FRAMES - 1):
        assert spans["read", f"frame {number + 1}"][0] >= spans["global", f"frame {number}"][0]


async def test_windows_of_more_live_frames_travel_on_a_long_way(mini_bundle: Bundle) -> None:
    measured = await run_held(mini_bundle, 3, live=True, site_is_late=True)
    assert (measured.frames, measured.lost.count) == (FRAMES, 0)
    assert measured.in_flight > 1


@pytest.mark.parametrize(
    ("now", "windows_s", "engines_s", "wanted"),
    [
        (1, 0.0, 0.0, 1),  # nothing was measured yet
        (1, 0.09, 0.1, 1),
        (1, 0.11, 0.1, 2),
        (2, 0.15, 0.1, 2),
        (2, 0.105, 0.1, 1),
        (3, 0.5, 0.1, 4),
    ],
)
def test_as_many_frames_travel_as_keep_the_engines_busy(
    now: int, windows_s: float, engines_s: float, wanted: int
) -> None:
    assert frames_ahead(now, windows_s, engines_s) == wanted


async def test_the_benchmark_names_the_slowest_stage(mini_bundle: Bundle) -> None:
    """Ten times apart, so that no busy machine turns them round."""
    found = await steady(mini_bundle, Profile(0.001, 0.1, 0.1), in_flight=2, frames=8)
    assert (found["frames"], found["slowest_stage"]) == (8, "edge")
    assert found["slowest_stage_ms"] >= 200
    assert found["fps"] > 0


async def test_waiting_for_the_engines_is_no_step(mini_bundle: Bundle) -> None:
    """A decoder that takes long makes the global stages of the next frames wait, not slow."""
    measured = await run_held(mini_bundle, 2, {"decoder": lambda number: time.sleep(LATE_S)})
    mean = {name: measured.seconds[name].recent_mean for name in ("global", "track", "decode")}
    assert mean["decode"] >= LATE_S
    assert mean["global"] + mean["track"] < LATE_S
    assert max(measured.seconds[QUEUE].recent) > LATE_S / 4
