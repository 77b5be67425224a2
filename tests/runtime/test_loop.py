"""The pipeline over files: what travels ahead, what is carried, what never leaves, and in which order."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import cv2
import pytest
from aiohttp import web

from runtime.loop import LoopOptions
from runtime.prompts import Prompt, Prompts
from stages.bundle import Bundle
from tests.edge import Impostor, sites_file
from tests.runtime.test_session import Film, edge_only, mask_lines, options, real_sites, run

pytestmark = pytest.mark.anyio


async def test_masks_are_carried_between_keyframes_and_verified(mini_bundle: Bundle, tmp_path: Path) -> None:
    prompts = Prompts((Prompt("cup", (150, 60, 450, 300)), Prompt("late", (30, 30, 200, 200), from_frame=2)))
    chosen = options(tmp_path / "out", verify=True, loop=LoopOptions(keyframe_every=4))
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
        chosen = options(tmp_path / "out", sites=sites, loop=LoopOptions(in_flight=in_flight))
        with anyio.fail_after(120):
            summary = await run(edge, Film(6, visit), chosen)
    assert summary["frames_lost"] == 0
    assert [line["frame"] for line in mask_lines(tmp_path / "out")] == sorted([*range(6)] * 2)


async def test_a_trace_of_a_run_has_every_step_and_site(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, trace=tmp_path / "trace.json")
        await run(mini_bundle, Film(3), chosen)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    tracks = {event["args"]["name"].partition(" (")[0] for event in events if event["name"] == "thread_name"}
    assert tracks == {"read", "windows", "global", "decode", "write", "site a", "site b", "site c"}
    assert sum(event["name"].startswith("window ") for event in events) == 45
    assert sum(event["name"] == "frame 1" for event in events) == 5
    assert cv2.imread(str(tmp_path / "trace.png")) is not None
