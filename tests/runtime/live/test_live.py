"""A live run from its camera to what its viewers see: nothing leaves unasked, clicks hit, faults pass."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from aiohttp import web
from rich.console import Console

from runtime.frames.canvas import make_canvas
from runtime.objects.masks import Mask, decode_mask
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.state_file import StateFile, opened_state
from runtime.objects.tracking import TrackState
from runtime.pipeline import PipelineOptions
from runtime.results.result import FrameResult
from runtime.results.run_folder import MARKER
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.bundle import Bundle
from stages.errors import InputError
from stages.tensors import Array
from tests.support.cameras import Camera, scenery
from tests.support.edge import Behaviour, Impostor, hang_up, sites_file, stall
from tests.support.live_runs import LiveRun, counted_sites, live_run, objects
from tests.support.processes import ServeProcess, serving

pytestmark = pytest.mark.anyio

CUP = Prompt("cup", (150, 60, 450, 300))
PROBES = (4 + 8) * 3  # tiles of the probes of three sites, of which eight are for spot checks
# An edge with its window engine would find out that these sites compute nothing.
IMPOSTOR: dict[str, Any] = {"accept_exposure": True, "spot_checks": 0.0}


def mask_of(shown: FrameResult) -> Mask:
    """Of the cup."""
    mask = objects(shown)["cup"].mask
    assert mask is not None
    return mask


async def test_nothing_leaves_before_the_first_prompt(mini_bundle: Bundle, tmp_path: Path) -> None:
    """Counted by the sites' own engines: they have run the probes, which are synthetic, and nothing else."""
    async with counted_sites(mini_bundle, tmp_path) as sites, live_run(mini_bundle, sites.file) as run:
        for number in range(3):
            shown = await run.frame()
            assert np.array_equal(shown.frame.pixels, scenery(number))
            assert shown.objects == ()
        assert sites.tiles() == PROBES
        assert all(site.tiles == 0 for site in run.live.status().sites)
        name = await run.live.prompt(PromptRequest(2, points=((300, 180, 1),)))
        shown = await run.frames_until(lambda shown: shown.objects)
        assert sites.tiles() > PROBES
        assert list(objects(shown)) == [name] == ["1"]
        before = sites.tiles()
        run.live.remove(name)
        await run.frames_until(lambda shown: not shown.objects)
        between = sites.tiles()
        for _ in range(3):
            await run.frame()
        assert before <= between == sites.tiles()


async def test_a_first_click_is_answered_on_the_frame_it_was_made_on(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """By the time it arrives the camera has gone on; the frame of the click is computed first."""
    seen: list[bytes] = []

    class Noting(Impostor):
        async def right_answer(self, inputs: dict[str, Array]) -> Array:
            seen.append(inputs["tile"].tobytes())
            return await super().right_answer(inputs)

    async with Noting(mini_bundle).running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        async with live_run(mini_bundle, sites, **IMPOSTOR) as run:
            for _ in range(5):
                await run.frame()
            seen.clear()
            await run.live.prompt(PromptRequest(1, box_xyxy=(100, 100, 300, 300)))
            shown = await run.frames_until(lambda shown: shown.objects)
    first = make_canvas(scenery(1), mini_bundle.geometry)
    inputs = first.window_inputs(first.windows, mini_bundle)
    wanted = {tile.tobytes() for tile in inputs["tile"]}
    assert seen[0] in wanted  # the clicked frame, and only then newer ones
    assert wanted <= set(seen)
    assert shown.number >= 5
    assert run.summary["windows_skipped_as_padding"] == 10  # the frame computed again counts as one more
    assert run.summary["frames_lost"] == 0


async def test_a_past_frame_is_computed_for_a_click_while_the_camera_gives_none(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    impostor = Impostor(mini_bundle)
    async with impostor.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        async with live_run(mini_bundle, sites, **IMPOSTOR) as run:
            await run.frame()
            name = await run.live.prompt(PromptRequest(0, points=((300, 180, 1),)))
            with anyio.fail_after(60):
                await impostor.seen.wait()
            assert list(objects(await run.frame())) == [name]
    assert run.summary["frames"] == 2


async def test_a_past_frame_is_computed_when_sending_goes_on(mini_bundle: Bundle, tmp_path: Path) -> None:
    """The click was made while sending was paused, and another pause breaks the frame's tiles off."""
    impostor = Impostor(mini_bundle)
    async with impostor.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        async with live_run(mini_bundle, sites, **IMPOSTOR) as run:
            await run.frame()
            run.live.pause(True)
            name = await run.live.prompt(PromptRequest(0, points=((300, 180, 1),)))
            assert (await run.frame()).objects == ()
            assert impostor.tiles == []
            impostor.always = stall
            run.live.pause(False)
            with anyio.fail_after(60):
                await impostor.seen.wait()
            impostor.always = None
            impostor.seen.clear()
            run.live.pause(True)
            run.live.pause(False)
            with anyio.fail_after(60):
                await impostor.seen.wait()
            assert list(objects(await run.frame())) == [name]


async def test_pausing_stops_at_once_and_shows_the_picture(mini_bundle: Bundle, tmp_path: Path) -> None:
    """A pause while every window of a frame is under way: the frame is shown bare, and no tile follows."""
    impostor = Impostor(mini_bundle)
    async with impostor.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        async with live_run(mini_bundle, sites, Prompts((CUP,)), **IMPOSTOR) as run:
            first = await run.frame()
            assert list(objects(first)) == ["cup"]
            impostor.always = stall
            impostor.seen.clear()
            run.camera.show(scenery(1))
            run.shown = 2
            with anyio.fail_after(60):
                await impostor.seen.wait()
            run.live.pause(True)
            sent = len(impostor.tiles)
            shown = await run.until(lambda shown: shown.number == 1)
            assert shown.objects == ()
            assert sent <= 15 + 8  # of the second frame, no more than there are connections
            sent = len(impostor.tiles)
            for _ in range(3):
                assert (await run.frame()).objects == ()
            assert len(impostor.tiles) == sent
            assert run.live.paused
            assert run.live.status().paused
            impostor.always = None
            impostor.released.set()
            run.live.pause(False)
            shown = await run.frame()
            assert list(objects(shown)) == ["cup"]
            assert len(impostor.tiles) > sent
    assert run.summary["frames_lost"] == 0


async def test_masks_are_computed_first_after_a_pause_between_keyframes(mini_bundle: Bundle) -> None:
    """The picture went on meanwhile: what was carried before says nothing about it."""
    many = PipelineOptions(keyframe_every=1000)
    async with live_run(mini_bundle, None, Prompts((CUP,)), pipeline=many) as run:
        states = [objects(await run.frame())["cup"].state.value for _ in range(3)]
        run.live.pause(True)
        await run.frame()
        run.live.pause(False)
        states += [objects(await run.frame())["cup"].state.value for _ in range(2)]
    assert states == ["tracked", "carried", "carried", "tracked", "carried"]


async def test_a_click_while_paused_waits_until_sending_goes_on(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with counted_sites(mini_bundle, tmp_path) as sites, live_run(mini_bundle, sites.file) as run:
        await run.frame()
        run.live.pause(True)
        name = await run.live.prompt(PromptRequest(0, points=((300, 180, 1),)))
        assert await run.live.prompt(PromptRequest(0, name, points=((310, 190, 1),))) == name
        for _ in range(3):
            assert (await run.frame()).objects == ()
        assert sites.tiles() == PROBES
        run.live.rename(name, "door")
        with pytest.raises(InputError, match=f"there is no object {name}"):
            run.live.rename(name, "gate")
        another = await run.live.prompt(PromptRequest(0, points=((20, 20, 1),)))
        with pytest.raises(InputError, match="another object is named door"):
            run.live.rename(another, "door")
        run.live.remove(another)
        run.live.pause(False)
        shown = await run.frames_until(lambda shown: shown.objects)
        assert list(objects(shown)) == ["door"]
        run.live.pause(True)
        other = await run.live.prompt(PromptRequest(shown.number, points=((20, 20, 1),)))
        assert other != name


async def test_objects_are_named_coloured_and_forgotten(mini_bundle: Bundle) -> None:
    async with live_run(mini_bundle, None, Prompts((CUP,))) as run:
        await run.frame()
        table = await run.live.prompt(PromptRequest(0, points=((30, 30, 1),)))
        shown = await run.frame()
        colours = {name: each.colour for name, each in objects(shown).items()}
        assert colours == {"cup": 0, table: 1}
        run.live.rename(table, "table")
        run.live.remove("cup")
        shown = await run.frame()
        assert {name: each.colour for name, each in objects(shown).items()} == {"table": 1}
        third = await run.live.prompt(PromptRequest(shown.number, box_xyxy=(10, 10, 90, 90)))
        shown = await run.frame()
        assert objects(shown)[third].colour == 0
        assert third not in ("table", table)
        for each in shown.objects:
            assert each.mask is not None
            assert each.mask.shape == (360, 640)
            assert each.state is TrackState.TRACKED


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            PromptRequest(0, points=((640, 10, 1),)),
            "point 640,10 of object 1 lies outside the frame of 640 x 360",
        ),
        (PromptRequest(0, box_xyxy=(5, 5, 5, 9)), "the box of object 1 is empty"),
        (PromptRequest(0), "object 1 has neither a box nor a point"),
        (PromptRequest(0, "cat", points=((1, 1, 1),)), "there is no object cat"),
        (PromptRequest(0, points=((1, 1, 1),) * 65), "object 1 has 65 points; 30 are the most"),
        (PromptRequest(0, points=((1, 1, 7),)), "label is neither 0"),
    ],
)
async def test_requests_that_cannot_be_right_are_refused(
    mini_bundle: Bundle, request_: PromptRequest, words: str
) -> None:
    async with live_run(mini_bundle, None) as run:
        await run.frame()
        with pytest.raises(InputError, match=words):
            await run.live.prompt(request_)
        for bad in ("", " ", "x" * 41, "a\nb"):
            with pytest.raises(InputError):
                run.live.rename("1", bad)
        with pytest.raises(InputError, match="there is no object 1"):
            run.live.remove("1")


async def test_what_the_preview_is_told(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with counted_sites(mini_bundle, tmp_path) as sites:
        async with live_run(mini_bundle, sites.file, Prompts((CUP,))) as run:
            for _ in range(3):
                shown = await run.frame()
            status = run.live.status()
        assert shown.latency_s > 0
        assert set(status.steps) == {"read", "windows", "global", "track", "decode", "write"}
        assert all(ms > 0 for ms in status.steps.values())
        assert status.fps > 0
        assert status.latency_ms > 0
        assert (status.grid, len(status.windows)) == (5, 25)
        sent = [window.index for window in status.windows if window.sent]
        assert sent == list(range(15))
        assert all(len(window.operators) == 1 for window in status.windows[:15])
        assert all(window.operators == () for window in status.windows[15:])
        assert status.caps == dict.fromkeys(("operator-a", "operator-b", "operator-c"), 5)
        assert [site.tiles for site in status.sites] == [15, 15, 15]
        assert {site.state for site in status.sites} == {"ready"}
        assert (status.dropped, status.lost, status.message) == (0, 0, None)
        assert status.limited_by.endswith("of every frame")


async def test_a_camera_that_is_unplugged_costs_no_object(mini_bundle: Bundle) -> None:
    async with live_run(mini_bundle, None, Prompts((CUP,))) as run:
        await run.frame()
        run.camera.unplug()
        await anyio.to_thread.run_sync(run.camera.wait_until_tried)
        assert "gives no picture any more" in (run.live.status().message or "")
        run.camera.plugged = True
        shown = await run.frame()
        assert list(objects(shown)) == ["cup"]
        assert run.live.status().message is None
    assert (run.summary["frames"], run.summary["frames_lost"]) == (2, 0)


async def test_an_error_of_the_camera_thread_ends_the_run_in_a_sentence(mini_bundle: Bundle) -> None:
    camera, options = Camera(), RunOptions(threads=1, allow_undistilled=True)
    camera.show(scenery(0))
    camera.fail(RuntimeError("the driver is gone"))
    console = Console(file=io.StringIO())
    with (
        anyio.fail_after(120),
        pytest.raises(InputError, match=r"test camera cannot be read any more .*: the driver is gone"),
    ):
        await run_session(mini_bundle, camera.source(), Prompts(()), options, console)


@pytest.mark.parametrize("behaviour", [hang_up, stall])
async def test_a_site_that_fails_draws_nothing_wrong(
    mini_bundle: Bundle, tmp_path: Path, behaviour: Behaviour
) -> None:
    """Its windows run at the edge from then on; every mask is the one of a run without sites."""
    prompts = Prompts((CUP,))
    async with live_run(mini_bundle, None, prompts) as alone:
        expected = [mask_of(await alone.frame()) for _ in range(6)]
    async with counted_sites(mini_bundle, tmp_path) as sites:
        dying = Impostor(mini_bundle)
        async with dying.running() as url:
            text = sites.file.read_text().replace(sites.running["b"].url, url)
            sites.file.write_text(text)

            async def fail_from_now_on(site: Impostor, request: web.Request) -> web.StreamResponse:
                site.always = behaviour
                return await behaviour(site, request)

            dying.script.append(fail_from_now_on)
            async with live_run(mini_bundle, sites.file, prompts, spot_checks=0) as run:
                masks = [mask_of(await run.frame())]
                assert state_of(run, "b") == "down"
                assert run.live.status().windows_run_at_edge == 5
                masks += [mask_of(await run.frame()) for _ in range(5)]
    for mask, other in zip(masks, expected, strict=True):
        assert np.array_equal(mask, other)
    assert run.summary["frames_lost"] == 0


async def test_a_site_that_is_started_again_has_its_windows_again(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """A real one, closed and opened on its port."""
    async with counted_sites(mini_bundle, tmp_path, "ac") as sites:
        with serving(mini_bundle.path) as first:
            url, port = first.url, first.url.rsplit(":", 1)[1]
            sites.file.write_text(sites.file.read_text() + sites_file(tmp_path / "b", ("b", url)).read_text())
            async with live_run(mini_bundle, sites.file, Prompts((CUP,))) as run:
                await run.frame()
                assert tiles_of(run) == [5, 5, 5]
                await anyio.to_thread.run_sync(_kill, first)
                await run.frame()
                assert run.live.status().windows_run_at_edge == 5
                with serving(mini_bundle.path, "--port", port):
                    with anyio.fail_after(120):
                        while state_of(run, "b") != "ready":
                            await run.frame()  # one that was back at once is tried with a copy of a tile
                    before = tiles_of(run)
                    await run.frame()
                    assert [now - then for now, then in zip(tiles_of(run), before, strict=True)] == [5, 5, 5]
                    assert run.live.status().message == "site b: is back and has its windows again"
    assert run.summary["frames_lost"] == 0
    assert "site b: is back and has its windows again" in run.summary["messages"]


def _kill(site: ServeProcess) -> None:
    site.process.kill()
    site.process.wait(timeout=60)


def tiles_of(run: LiveRun) -> list[int]:
    return [site.tiles for site in run.live.status().sites]


def state_of(run: LiveRun, name: str) -> str:
    states: dict[str, str] = {site.name: site.state for site in run.live.status().sites}
    return states[name]


async def test_a_live_run_keeps_its_objects_for_the_next_one(mini_bundle: Bundle, tmp_path: Path) -> None:
    state = StateFile(tmp_path / "objects.json", "")
    async with live_run(mini_bundle, None, state=state) as run:
        await run.frame()
        name = await run.live.prompt(PromptRequest(0, points=((300, 180, 1),)))
        await run.frames_until(lambda shown: shown.objects)
        run.live.rename(name, "cup")
        await run.frames_until(lambda shown: "cup" in objects(shown))
    kept = held(state)
    (cup,) = kept.entries
    assert cup.name == "cup"
    assert cup.box_xyxy is not None  # where it was seen last, not where it was clicked
    assert cup.asked == Prompt("cup", None, ((300, 180, 1),))
    async with live_run(mini_bundle, None, kept, state=state) as again:
        shown = await again.frame()
        assert list(objects(shown)) == ["cup"]
        again.live.remove("cup")
        await again.frame()
    assert held(state).entries == ()


def held(state: StateFile) -> Prompts:
    with opened_state(state.path, None, lambda line: None) as (_, prompts):
        return prompts


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"verify": True}, "--verify reads the source and its masks again"),
        ({"record": True}, "give --out DIR, or --no-record"),
        ({"allow_undistilled": False}, "untrained weights"),
    ],
)
async def test_what_a_live_run_cannot_do_is_refused_before_the_camera_is_opened(
    mini_bundle: Bundle, more: dict[str, Any], words: str
) -> None:
    camera = Camera()
    options = RunOptions(**{"allow_undistilled": True, **more})
    with pytest.raises(InputError, match=words):
        await run_session(mini_bundle, camera.source(), Prompts(()), options, Console(file=io.StringIO()))
    assert camera.opened == 0


@pytest.mark.parametrize(
    ("more", "watched", "warnings"),
    [({}, False, 1), ({}, True, 0), ({"record": True}, False, 0), ({"record": False}, False, 1)],
)
async def test_a_live_run_that_shows_and_keeps_nothing_says_so(
    more: dict[str, Any], watched: bool, warnings: int
) -> None:
    doubts = list(RunOptions(**more).doubts(Camera().source(), watched))
    assert len(doubts) == warnings
    assert all("masks of a live source are neither written nor shown" in doubt for doubt in doubts)


async def test_a_live_run_records_nothing_unless_told(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with live_run(mini_bundle, None, Prompts((CUP,)), out=tmp_path / "out") as run:
        await run.frame()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER, "summary.json"}
    async with live_run(mini_bundle, None, Prompts((CUP,)), out=tmp_path / "rec", record=True) as run:
        shown = [await run.frame() for _ in range(3)]
    part = tmp_path / "rec/record/part_00000001"
    assert {path.name for path in part.iterdir()} == {"masks.jsonl", "overlay.mp4"}
    lines = [json.loads(line) for line in (part / "masks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2]
    for line, frame in zip(lines, shown, strict=True):
        assert np.array_equal(decode_mask(line["segmentation"]), mask_of(frame))
        assert (line["state"], line["object"]) == ("tracked", "cup")
        assert line["time_s"] == round(frame.frame.time_s, 4)


async def test_prompts_of_a_camera_hold_from_the_first_frame_of_the_next_run(mini_bundle: Bundle) -> None:
    async with live_run(mini_bundle, None) as run:
        for _ in range(3):
            await run.frame()
        await run.live.prompt(PromptRequest(2, points=((300, 180, 1),), new_name="cup"))
        await run.frames_until(lambda shown: shown.objects)
        (prompt,) = run.live.prompts().entries
        assert (prompt.name, prompt.from_frame, prompt.points) == ("cup", 0, ((300, 180, 1),))
        with pytest.raises(InputError, match="another object is named cup"):
            await run.live.prompt(PromptRequest(2, points=((300, 180, 1),), new_name="cup"))
