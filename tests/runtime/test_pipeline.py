"""The pipeline over files: what travels ahead, what is carried, what never leaves, and in which order."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import cv2
import pytest
from aiohttp import web
from rich.console import Console

from runtime.frames.canvas import make_canvas
from runtime.frames.sources import NOTHING, Frame
from runtime.live.interface import Live
from runtime.objects.follower import RecentFrame
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.pipeline import TRACED_S, Fate, FrameJob, Pipeline, PipelineOptions
from runtime.results.doubts import Doubts
from runtime.results.trace import Trace
from runtime.session import run_session
from runtime.sites.traffic import Traffic
from stages.bundle import Bundle
from stages.errors import InputError
from tests.runtime.test_session import PROMPTS, Film, edge_only, mask_lines, options, real_sites, run
from tests.support.edge import Impostor, sites_file
from tests.support.pictures import photo

pytestmark = pytest.mark.anyio


async def test_masks_are_carried_between_keyframes_and_verified(mini_bundle: Bundle, tmp_path: Path) -> None:
    prompts = Prompts((Prompt("cup", (150, 60, 450, 300)), Prompt("late", (30, 30, 200, 200), from_frame=2)))
    chosen = options(tmp_path / "out", verify=True, pipeline=PipelineOptions(keyframe_every=4))
    summary = await run(mini_bundle, Film(7), chosen, prompts)
    states = {(line["frame"], line["object"]): line["state"] for line in mask_lines(tmp_path / "out")}
    cups = [states[frame, "cup"] for frame in range(7)]
    assert cups == ["tracked", "carried", "tracked", "carried", "tracked", "carried", "carried"]
    assert (2, "late") in states
    assert (1, "late") not in states
    assert summary["frames_carried"] == 4
    assert summary["windows_run_at_edge"] == 3 * 15
    assert summary["windows_sent_per_frame"] == 0
    assert summary["iou_with_unsplit"] >= 0.999


@pytest.mark.parametrize(("full_pixels", "at_once"), [(0, 1), (360 * 640, 2)])
async def test_large_frames_wait_for_those_before_to_be_written(
    mini_bundle: Bundle, tmp_path: Path, full_pixels: int, at_once: int
) -> None:
    under_way: list[int] = []

    def visit(number: int) -> None:
        begun = (tmp_path / "out/masks.jsonl").exists()
        written = {line["frame"] for line in mask_lines(tmp_path / "out")} if begun else set()
        under_way.append(number + 1 - len(written))

    chosen = options(tmp_path / "out", pipeline=PipelineOptions(full_pixels=full_pixels))
    summary = await run(mini_bundle, Film(5, visit), chosen)
    assert summary["frames"] == 5
    assert max(under_way) == at_once


async def test_a_frame_that_is_done_lets_none_more_be_under_way(mini_bundle: Bundle) -> None:
    """Only new figures do: each frame whose windows have come."""
    never: Any = None
    unused: Any = SimpleNamespace(doubts=Doubts())
    pipeline = Pipeline(mini_bundle.geometry, unused, never, (), PipelineOptions(in_flight=3))
    pipeline.measured.in_flight, pipeline._ahead = 1, 3
    pipeline._windows_s, pipeline._engines_s = 10.0, 1.0
    send, receive = anyio.create_memory_object_stream[FrameJob](5)
    for number in range(5):
        frame = Frame(number, str(number), 0.0, NOTHING, error="lost")
        send.send_nowait(FrameJob(frame, 0.0, Fate.LOST))
    send.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline._wait_for_slot, True)
        await anyio.wait_all_tasks_blocked()
        await pipeline._finish(receive)
        await anyio.wait_all_tasks_blocked()
        assert pipeline.measured.frames == 5
        assert pipeline.measured.in_flight == 1
        tasks.cancel_scope.cancel()


async def test_a_carried_mask_is_in_doubt_as_the_one_it_comes_from(mini_bundle: Bundle) -> None:
    async def nothing(frame: RecentFrame) -> list[Any]:
        return []

    doubts = Doubts()
    encoder: Any = SimpleNamespace(doubts=doubts, global_s=0.0)
    follower: Any = SimpleNamespace(
        compute=nothing, carry=nothing, tracking_s=0.0, decoder_s=0.0, objects=SimpleNamespace(changes=0)
    )
    pipeline = Pipeline(mini_bundle.geometry, encoder, follower, (), PipelineOptions())
    canvas = make_canvas(photo("16:9"), mini_bundle.geometry)
    fates = (Fate.COMPUTED, Fate.CARRIED, Fate.COMPUTED, Fate.CARRIED)
    for number, (fate, sites) in enumerate(zip(fates, ("b", "", "a", ""), strict=True)):
        frame = Frame(number, str(number), 0.0, photo("16:9"))
        job = FrameJob(frame, 0.0, fate, RecentFrame(number, canvas), sites=sites)
        await pipeline._decode(job)
        doubts.used(number, sites)
    assert doubts.lied("b", "").frames == [(0, 1)]
    assert [doubts.has(number, "b") for number in (0, 1)] == [True, True]


async def test_what_viewers_do_in_a_run_that_is_verified(mini_bundle: Bundle, tmp_path: Path) -> None:
    """They may pause it, after which the next frame is computed; objects stay what was asked for."""
    lives: list[Live] = []

    @asynccontextmanager
    async def viewer(live: Live) -> AsyncIterator[str]:
        lives.append(live)
        yield "watching"

    async def meddle() -> None:
        (live,) = lives
        version, shown = await live.frames.after(0)
        while shown.number < 1:  # or the pause would break off frames before this one
            version, shown = await live.frames.after(version)
        with pytest.raises(InputError, match="objects cannot be changed while --verify is on"):
            await live.prompt(PromptRequest(0, points=((300, 180, 1),)))
        with pytest.raises(InputError, match="objects cannot be changed"):
            live.rename("cup", "mug")
        with pytest.raises(InputError, match="objects cannot be changed"):
            live.remove("cup")

    visited: list[int] = []

    def visit(number: int) -> None:
        if number in (2, 5) and number not in visited:  # the comparison reads the frames again
            visited.append(number)
            if number == 2:
                anyio.from_thread.run(meddle)
            anyio.from_thread.run_sync(lives[0].pause, number == 2)

    chosen = options(tmp_path / "out", verify=True, pipeline=PipelineOptions(keyframe_every=4))
    console = Console(file=io.StringIO())
    summary = await run_session(mini_bundle, Film(8, visit), PROMPTS, chosen, console, [viewer])
    states = {line["frame"]: line["state"] for line in mask_lines(tmp_path / "out")}
    assert states == {0: "tracked", 1: "carried", 5: "tracked", 6: "carried", 7: "carried"}
    assert summary["iou_with_unsplit"] >= 0.999


async def test_frames_before_the_first_prompt_are_not_segmented(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with real_sites(mini_bundle, tmp_path) as sites:
        prompts = Prompts((Prompt("cup", (150, 60, 450, 300), from_frame=2),))
        summary = await run(mini_bundle, Film(3), options(tmp_path / "out", sites=sites), prompts)
    assert (summary["frames"], summary["frames_bare"]) == (3, 2)
    assert sum(site["tiles_served"] for site in summary["sites"].values()) == 15
    assert [line["frame"] for line in mask_lines(tmp_path / "out")] == [2]
    assert len(list((tmp_path / "out/overlay").iterdir())) == 3


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_frames_leave_in_order_and_windows_travel_ahead(
    mini_bundle: Bundle, tmp_path: Path, in_flight: int
) -> None:
    """Sites stall until windows of as many frames as may travel have come, no frame is read before there is
    room for it, and the results are in order. Five sites, since each takes no more than eight tiles at
    once."""
    wave = 15 * in_flight
    come = answered = 0
    all_come = anyio.Event()

    async def hold(site: Impostor, request: web.Request) -> web.StreamResponse:
        nonlocal come, answered
        come += 1
        if come >= wave:
            all_come.set()
        await all_come.wait()
        answered += 1
        return await site.answer(request)

    def visit(number: int) -> None:
        assert answered >= 15 * (number + 1 - in_flight)

    impostors = {name: Impostor(mini_bundle, *[hold] * 90) for name in "abcde"}
    edge = edge_only(mini_bundle, tmp_path / "edge")
    async with AsyncExitStack() as stack:
        urls = [(name, await stack.enter_async_context(each.running())) for name, each in impostors.items()]
        sites = sites_file(tmp_path / "sites.toml", *urls)
        chosen = options(tmp_path / "out", sites=sites, pipeline=PipelineOptions(in_flight=in_flight))
        with anyio.fail_after(120):
            summary = await run(edge, Film(6, visit), chosen)
    assert summary["frames_lost"] == 0
    assert [line["frame"] for line in mask_lines(tmp_path / "out")] == sorted([*range(6)] * 2)


async def test_traffic_is_traced_twice_a_second(mini_bundle: Bundle) -> None:
    """The trace keeps so many values only, and the board's are among them."""
    never: Any = None
    encoder: Any = SimpleNamespace(doubts=Doubts(), traffic=Traffic(body_up=1, requests=1))
    trace = Trace()
    pipeline = Pipeline(mini_bundle.geometry, encoder, never, (), PipelineOptions(), trace=trace)
    started = time.perf_counter()
    for _ in range(100):
        pipeline._note_traffic()
    took_s = time.perf_counter() - started
    names = [event["name"] for event in trace.events()["traceEvents"]]
    for name in ("sent to sites (MB)", "came from sites (MB)"):
        assert 1 <= names.count(name) <= 1 + took_s / TRACED_S


async def test_a_trace_of_a_run_has_every_step_and_site(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, trace=tmp_path / "trace.json")
        summary = await run(mini_bundle, Film(3), chosen)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    sent = [event["args"]["value"] for event in events if event["name"] == "sent to sites (MB)"]
    assert 2 <= len(sent) <= 4  # the first frame's, the last one's, and twice a second between them
    assert sent == sorted(sent)
    assert 45 * 19_200 < sent[-1] * 1e6 < summary["bytes_up"] + summary["head_bytes_up"] + 1
    tracks = {event["args"]["name"].partition(" (")[0] for event in events if event["name"] == "thread_name"}
    assert tracks == {"read", "windows", "global", "decode", "write", "site a", "site b", "site c"}
    assert sum(event["name"].startswith("window ") for event in events) == 45
    assert sum(event["name"] == "frame 1" for event in events) == 5
    assert cv2.imread(str(tmp_path / "trace.png")) is not None
