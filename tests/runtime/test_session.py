"""Whole runs in one process: what is written, what is refused before anything is sent, and the ledger."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import cv2
import numpy as np
import pytest

from runtime import run_options, session
from runtime.frames.canvas import Canvas
from runtime.frames.sources import NOTHING, Frame, Source, open_source
from runtime.live.messages import Messages
from runtime.objects.decode import ObjectMask
from runtime.objects.masks import decode_mask
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import MakeTrack
from runtime.objects.tracking import FixedPrompt
from runtime.results.run_folder import run_folder
from runtime.results.sinks import MaskLines, close_all
from runtime.results.summary import print_summary
from runtime.run_options import RunOptions
from runtime.session import run_session
from runtime.stopping import Stop
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.console import make_console
from stages.errors import BundleError, InputError
from tests.support.edge import Impostor, sites_file, status, write_photo
from tests.support.failing_sites import SITE_LOG_HINT
from tests.support.pictures import photo, stamped

pytestmark = pytest.mark.anyio

PROMPTS = Prompts((Prompt("cup", (150, 60, 450, 300)), Prompt("table", None, ((30, 30, 1),))))


class Film(Source):
    """Frames in memory, each other in every window; `visit` is called, on the reading thread, with each
    frame's number before it."""

    def __init__(self, frames: int, visit: Any = lambda number: None) -> None:
        self.count = frames
        self._visit = visit

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({(360, 640)})

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.count or 0):
            self._visit(number)
            yield Frame(number, f"{number:03}", float(number), np.roll(photo("16:9"), 3 * number, axis=1))


def options(out: Path, **more: Any) -> RunOptions:
    return RunOptions(out=out, threads=1, allow_undistilled=True, **more)


class Terminal(io.StringIO):
    """What is printed; `said` is set when it holds `words`."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.said = threading.Event()
        self._words = words

    def write(self, text: str) -> int:
        if self._words in text:
            self.said.set()
        return super().write(text)


async def run(
    bundle: Bundle,
    source: Source,
    chosen: RunOptions,
    prompts: Prompts = PROMPTS,
    terminal: io.StringIO | None = None,
) -> dict[str, Any]:
    console = make_console(file=terminal or io.StringIO(), width=200)
    summary = await run_session(bundle, source, prompts, chosen, console)
    assert chosen.out is not None
    assert json.loads((chosen.out / "summary.json").read_text()) == summary
    print_summary(console, summary)
    return summary


def mask_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]


@asynccontextmanager
async def real_sites(bundle: Bundle, path: Path, names: str = "abc", more: str = "") -> AsyncIterator[Path]:
    """Sites in this process, and the sites.toml that lists them."""
    async with AsyncExitStack() as stack:
        urls = []
        for name in names:
            site = await stack.enter_async_context(running_site(bundle, ServeOptions(port=0, threads=1)))
            urls.append((name, site.url))
        yield sites_file(path / "sites.toml", *urls, more=more)


def edge_only(bundle: Bundle, path: Path) -> Bundle:
    """A copy that holds all but the window stage."""
    path.mkdir()
    for part in ("bundle.json", "edge", "global", "decoder", "whole"):
        (path / part).symlink_to(bundle.path / part)
    return Bundle.load(path)


async def test_three_sites_give_what_the_edge_alone_gives(mini_bundle: Bundle, tmp_path: Path) -> None:
    alone = await run(mini_bundle, Film(2), options(tmp_path / "alone"))
    edge, terminal = edge_only(mini_bundle, tmp_path / "edge"), io.StringIO()
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "sites", sites=sites, verify=True, price_per_gb=2.0)
        summary = await run(edge, Film(2), chosen, terminal=terminal)
    assert mask_lines(tmp_path / "sites") == mask_lines(tmp_path / "alone")
    assert summary["iou_with_unsplit"] >= 0.999
    assert (summary["frames"], summary["frames_lost"]) == (2, 0)
    assert (summary["windows_sent_per_frame"], summary["windows_skipped_as_padding"]) == (15, 10)
    assert (alone["windows_sent_per_frame"], alone["windows_run_at_edge"]) == (0, 30)
    assert summary["windows_run_at_edge"] == 0
    for site in summary["sites"].values():
        assert site["state"] == "ready"
        assert (site["tiles_served"], site["operator_cap"]) == (10, 5)
        assert len(site["windows_seen"]) == 5
        assert site["windows_seen"] == site["operator_exposure"]
    shares = {site["operator"]: site["picture_share"] for site in summary["sites"].values()}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert max(shares.values()) <= 1 / 3 + 0.03
    said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    assert terminal.getvalue().startswith(f"operators may see of the picture: {said}; 5 of 15 windows each\n")
    seen = [window for site in summary["sites"].values() for window in site["windows_seen"]]
    assert sorted(seen) == list(range(15))
    assert summary["bytes_up"] > 30 * mini_bundle.geometry.tile_px**2 * 3
    assert summary["bytes_down"] > 30 * 9600
    assert summary["head_bytes_up"] > summary["head_bytes_down"] > 100 * summary["requests"] > 100 * 30
    down = summary["gigabytes_an_hour_down"]
    assert (
        1.9 * down < summary["gigabytes_an_hour_up"] < 2.1 * down
    )  # without the probes before the first frame
    assert summary["price_an_hour"] == pytest.approx(2 * down, abs=1e-3)
    assert (alone["gigabytes_an_hour_down"], alone["price_an_hour"]) == (0, None)


async def test_the_summary_holds_what_a_run_measures(mini_bundle: Bundle, tmp_path: Path) -> None:
    summary = await run(mini_bundle, Film(3), options(tmp_path / "out"))
    assert set(summary) >= {
        "frames", "frames_lost", "fps", "latency_ms", "bytes_up", "bytes_down", "sites",
        "windows_sent_per_frame", "windows_skipped_as_padding",
    }  # fmt: skip
    steps = {"read", "windows", "global", "track", "decode", "write"}
    assert set(summary["latency_ms"]) == {*steps, "queue", "edge_windows", "end_to_end"}
    for part in summary["latency_ms"].values():
        assert 0 < part["p50"] <= part["p95"]
    ends = summary["latency_ms"]["end_to_end"]["p50"]
    assert all(part["p50"] <= ends for part in summary["latency_ms"].values())
    assert summary["fps"] > 0
    assert (summary["model"], summary["weights"], summary["wire"]) == ("mini", "untrained", "fp16")
    assert summary["limited_by"].endswith("ms of every frame")
    together = [sum(summary["latency_ms"][part]["p50"] for part in ("global", "track", "decode", "queue"))]
    assert together <= [ends]


async def test_masks_and_overlays_are_written_for_every_frame_and_object(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_photo(tmp_path / "in" / f"{name}.png")
    await run(mini_bundle, open_source(tmp_path / "in"), options(tmp_path / "out"))
    lines = mask_lines(tmp_path / "out")
    assert [(line["frame"], line["source"], line["object"]) for line in lines] == [
        (0, "a", "cup"), (0, "a", "table"), (1, "b", "cup"), (1, "b", "table"),
    ]  # fmt: skip
    for line in lines:
        mask = decode_mask(line["segmentation"])
        assert mask.shape == (360, 640)
        assert mask.sum() == line["area"] > 0
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert line["bbox"] == [cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1]
        assert line["weights"] == "untrained"
    overlay = cv2.imread(str(tmp_path / "out/overlay/b.jpg"))
    assert overlay is not None
    assert overlay.shape == (360, 640, 3)
    difference = np.abs(overlay[..., ::-1].astype(int) - photo("16:9")).max(axis=2)
    masks = np.logical_or.reduce([decode_mask(line["segmentation"]) for line in lines])
    beyond = cv2.dilate(masks.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0  # outlines
    assert difference[masks].mean() > 20
    assert (difference[beyond] < 20).mean() > 0.2  # some of it: there are prompts and names too
    assert difference[:8, :200].mean() > 20  # the banner: these weights mean nothing


async def test_distilled_weights_need_no_permission_and_bear_no_banner(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    distilled = replace(mini_bundle, weights="distilled")
    chosen = replace(options(tmp_path / "out"), allow_undistilled=False)
    await run(distilled, open_source(write_photo(tmp_path / "a.png")), chosen)
    overlay = cv2.imread(str(tmp_path / "out/overlay/a.jpg"))
    assert overlay is not None
    assert not stamped(photo("16:9"), np.asarray(overlay, np.uint8))
    assert {line["weights"] for line in mask_lines(tmp_path / "out")} == {"distilled"}


async def test_a_video_becomes_an_overlay_video(mini_bundle: Bundle, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (640, 360))
    for _ in range(3):
        writer.write(np.ascontiguousarray(photo("16:9")[..., ::-1]))
    writer.release()
    summary = await run(mini_bundle, open_source(tmp_path / "in.mp4"), options(tmp_path / "out"))
    assert (summary["frames"], len(mask_lines(tmp_path / "out"))) == (3, 6)
    overlay = open_source(tmp_path / "out/overlay.mp4")
    assert (overlay.fps, overlay.count, len(list(overlay))) == (5.0, 3, 3)
    assert overlay.sizes() == {(360, 640)}


async def test_a_damaged_picture_is_a_lost_frame_and_the_rest_goes_on(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_photo(tmp_path / "in" / f"{name}.png")
    path = tmp_path / "in/b.png"
    path.write_bytes(path.read_bytes()[:5000])
    chosen = options(tmp_path / "out", verify=True)
    summary = await run(mini_bundle, open_source(tmp_path / "in"), chosen)
    assert (summary["frames"], summary["frames_lost"]) == (3, 1)
    assert "b.png cannot be read" in summary["lost"]["b"]
    assert [line["frame"] for line in mask_lines(tmp_path / "out")] == [0, 0, 2, 2]
    assert summary["iou_with_unsplit"] >= 0.999


async def test_where_no_picture_can_be_read_all_are_lost_and_sites_see_nothing(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"")
    (tmp_path / "in/b.jpg").write_text("<html>")
    async with real_sites(mini_bundle, tmp_path) as sites:
        summary = await run(mini_bundle, open_source(tmp_path / "in"), options(tmp_path / "out", sites=sites))
    assert (summary["frames"], summary["frames_lost"]) == (2, 2)
    assert "it is empty" in summary["lost"]["a"]
    assert "it is an HTML page" in summary["lost"]["b"]
    assert all(site["windows_seen"] == [] for site in summary["sites"].values())


async def test_a_frame_without_a_way_out_is_lost_and_the_next_ones_are_not(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    terminal = Terminal("site b: is back")

    def visit(number: int) -> None:
        if number:  # it is back once a frame has tried it
            terminal.said.wait(timeout=0.5)

    edge = edge_only(mini_bundle, tmp_path / "edge")
    impostors = {name: Impostor(mini_bundle) for name in "abc"}
    impostors["b"].script.append(status(500))
    async with AsyncExitStack() as stack:
        urls = [(name, await stack.enter_async_context(each.running())) for name, each in impostors.items()]
        chosen = options(tmp_path / "out", sites=sites_file(tmp_path / "sites.toml", *urls))
        summary = await run(edge, Film(40, visit), chosen, terminal=terminal)
    assert summary["frames"] == 40
    assert 1 <= summary["frames_lost"] < 40
    assert "operator operator-b does not answer" in summary["lost"]["000"]
    assert [line["frame"] for line in mask_lines(tmp_path / "out")][-2:] == [39, 39]


async def test_a_run_that_loses_every_frame_says_so(mini_bundle: Bundle, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:5000])
    summary = await run(mini_bundle, open_source(path), options(tmp_path / "out", verify=True))
    assert (summary["frames"], summary["frames_lost"], summary["fps"]) == (1, 1, 0)
    assert summary["iou_with_unsplit"] is None
    assert summary["limited_by"] == "nothing: no frame was completed"
    assert summary["nothing_done"].startswith("nothing was done: every frame is lost, the last one because ")
    assert "a.png cannot be read" in summary["nothing_done"]


async def test_verify_finds_a_mask_that_differs(mini_bundle: Bundle, tmp_path: Path) -> None:
    """The masks are compared as they lie on the disk."""
    from runtime.results.verify import iou_with_unsplit

    await run(mini_bundle, Film(2), options(tmp_path / "out"))
    masks = tmp_path / "out/masks.jsonl"
    lines = masks.read_text().splitlines()
    masks.write_text("\n".join([lines[0], lines[1].replace('"table"', '"cup"'), *lines[2:]]))
    read: list[int] = []
    cup = Prompts(PROMPTS.entries[:1])
    lowest = await iou_with_unsplit(mini_bundle, Film(50, read.append), cup, masks, threads=1)
    assert read == [0, 1]  # no frame is read that no mask is of
    assert lowest is not None
    assert 0 < lowest < 0.9


async def test_prompts_change_at_their_frame(mini_bundle: Bundle, tmp_path: Path) -> None:
    prompts = Prompts((Prompt("1", (0, 0, 200, 200)), Prompt("1", (300, 100, 640, 360), from_frame=1)))
    await run(mini_bundle, Film(2), options(tmp_path / "out"), prompts)
    first, second = (decode_mask(line["segmentation"]) for line in mask_lines(tmp_path / "out"))
    assert not np.array_equal(first, second)


async def test_the_assignment_outlives_a_run_until_a_new_session(mini_bundle: Bundle, tmp_path: Path) -> None:
    ledger, old = tmp_path / "sites.ledger.json", "2020-01-01T00:00:00+00:00"
    swapped: dict[str, list[int]] = {}
    async with real_sites(mini_bundle, tmp_path, more="cap = 9") as sites:
        for new_session in (False, False, True):
            chosen = options(tmp_path / "out", sites=sites, new_session=new_session)
            summary = await run(mini_bundle, Film(1), chosen)
            kept = json.loads(ledger.read_text())
            seen = {f"operator-{name}": site["windows_seen"] for name, site in summary["sites"].items()}
            assert kept["exposure"] == seen
            if swapped:
                assert (kept["session"] == old) == (not new_session)
                assert (seen == swapped) == (not new_session)
            # A session that began long ago, in which the operators had each other's windows.
            swapped = dict(zip(seen, [*list(seen.values())[1:], seen["operator-a"]], strict=True))
            ledger.write_text(json.dumps({**kept, "session": old, "exposure": swapped}))


async def test_more_seen_than_a_cap_allows_is_told_and_a_whole_picture_refused(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """What earlier runs of the session showed, with other caps or with --accept-exposure."""
    ledger = tmp_path / "sites.ledger.json"
    async with real_sites(mini_bundle, tmp_path) as sites:
        terminal = io.StringIO()
        for seen in (range(7), range(15)):
            exposure = {"operator-a": list(seen)}
            session = "2020-01-01T00:00:00+00:00"
            ledger.write_text(json.dumps({"format": 1, "session": session, "exposure": exposure}))
            chosen = options(tmp_path / "out", sites=sites, accept_exposure=len(seen) == 7)
            console = make_console(file=terminal, width=1000)
            if len(seen) == 7:
                await run_session(mini_bundle, Film(1), PROMPTS, chosen, console)
                continue
            with pytest.raises(InputError, match="operator-a has seen the whole picture in this session"):
                await run_session(mini_bundle, Film(1), PROMPTS, chosen, console)
    said = "operator operator-a has seen 7 windows in this session, more than its cap of 5 in this run"
    assert said in terminal.getvalue()


async def test_a_second_run_with_the_same_ledger_is_refused(mini_bundle: Bundle, tmp_path: Path) -> None:
    refused = []

    async with real_sites(mini_bundle, tmp_path) as sites:

        async def again() -> None:
            with pytest.raises(InputError, match=r"another run uses the exposure ledger .*sites.ledger.json"):
                await run(mini_bundle, Film(1), options(tmp_path / "second", sites=sites))
            refused.append(True)

        def visit(number: int) -> None:
            if number == 1:
                anyio.from_thread.run(again)

        await run(mini_bundle, Film(2, visit), options(tmp_path / "first", sites=sites))
        assert refused == [True]
        assert not (tmp_path / "second/masks.jsonl").exists()
        await run(mini_bundle, Film(1), options(tmp_path / "second", sites=sites))  # now it is free


async def test_one_operator_alone_needs_accept_exposure(mini_bundle: Bundle, tmp_path: Path) -> None:
    impostor = Impostor(mini_bundle)
    async with impostor.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        with pytest.raises(InputError, match=r"operator operator-a alone.*--accept-exposure"):
            await run(mini_bundle, Film(1), options(tmp_path / "out", sites=sites))
        assert not (tmp_path / "out").exists()
        chosen = options(tmp_path / "out", sites=sites, accept_exposure=True, spot_checks=0)
        summary = await run(mini_bundle, Film(1), chosen)
    assert sorted(impostor.tiles) == summary["sites"]["a"]["windows_seen"] == list(range(15))


async def test_a_failing_site_is_told_once_and_its_words_are_no_markup(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    bad = Impostor(mini_bundle, always=status(500, "[/nonsense] [red]"))
    async with bad.running() as bad_url, real_sites(mini_bundle, tmp_path, "ab") as sites:
        sites_file(tmp_path / "more.toml", ("c", bad_url))
        sites.write_text(sites.read_text() + (tmp_path / "more.toml").read_text())
        summary = await run(mini_bundle, Film(2), options(tmp_path / "out", sites=sites))
    assert summary["messages"] == [f"site c: answered 500: [/nonsense] [red]; {SITE_LOG_HINT}"]
    assert (summary["frames_lost"], summary["windows_run_at_edge"]) == (0, 10)


async def test_what_no_site_ran_is_not_put_down_to_the_sites(mini_bundle: Bundle, tmp_path: Path) -> None:
    bad = Impostor(mini_bundle, always=status(500, "no"))
    async with bad.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        chosen = options(tmp_path / "out", sites=sites, accept_exposure=True)
        summary = await run(mini_bundle, Film(8), chosen)
    assert summary["windows_run_at_edge"] == 8 * 15
    assert "the engines at the edge (window stage " in summary["limited_by"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"allow_undistilled": False}, "untrained weights.*--allow-undistilled"),
        ({"wire": "fp32"}, "does not offer --wire fp32, only fp16 and int8"),
        ({"sites": Path("absent.toml")}, "absent.toml cannot be read"),
        ({"out": Path("/dev/null/out")}, "cannot write /dev/null/out; check free space"),
    ],
)
async def test_what_can_be_known_to_be_wrong_is_refused_first(
    mini_bundle: Bundle, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    chosen = replace(options(tmp_path / "out"), **more)
    with pytest.raises(InputError, match=words):
        await run(mini_bundle, Film(1), chosen)
    assert not (tmp_path / "out").exists()


async def test_a_prompt_outside_the_frame_is_refused_first(mini_bundle: Bundle, tmp_path: Path) -> None:
    prompts = Prompts((Prompt("cup", None, ((640, 10, 1),)),))
    with pytest.raises(InputError, match="point 640,10 of object cup lies outside the frame of 640 x 360"):
        await run(mini_bundle, Film(1), options(tmp_path / "out"), prompts)


@pytest.mark.parametrize(("missing", "more"), [("whole", {"verify": True}), ("window", {}), ("global", {})])
async def test_a_stage_that_is_not_here_is_named_before_the_first_frame(
    mini_bundle: Bundle, tmp_path: Path, missing: str, more: dict[str, Any]
) -> None:
    (tmp_path / "bundle").mkdir()
    for part in {"bundle.json", "edge", "window", "global", "decoder", "whole"} - {missing}:
        (tmp_path / "bundle" / part).symlink_to(mini_bundle.path / part)
    frames: list[int] = []
    bundle, chosen = Bundle.load(tmp_path / "bundle"), options(tmp_path / "out", **more)
    with pytest.raises(BundleError, match=rf"{missing}/model\.onnx.* is missing"):
        await run(bundle, Film(1, frames.append), chosen)
    assert frames == []


async def test_results_that_cannot_be_written_end_the_run_in_a_sentence(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/overlay").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write .*out/overlay"):
        await run(mini_bundle, Film(1), options(tmp_path / "out"))


async def test_a_trace_that_cannot_be_written_takes_no_result_away(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    def visit(number: int) -> None:
        (tmp_path / "folder").write_text("in the way")

    chosen = options(tmp_path / "out", trace=tmp_path / "folder/trace.json")
    with pytest.raises(InputError, match=r"cannot write .*trace\.json"):
        await run(mini_bundle, Film(1, visit), chosen)
    assert json.loads((tmp_path / "out/summary.json").read_text())["frames"] == 1


async def test_a_picture_that_cannot_be_written_stops_the_pipeline(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """All steps end, and the first error of their group is the one that says why."""

    def visit(number: int) -> None:
        if (tmp_path / "out/overlay").exists():
            (tmp_path / "out/overlay").rename(tmp_path / "away")

    with pytest.RaisesGroup(
        pytest.RaisesExc(InputError, match="cannot write"), allow_unwrapped=True, flatten_subgroups=True
    ):
        await run(mini_bundle, Film(50, visit), options(tmp_path / "out"))


class Nothing(FixedPrompt):
    """An object of which the decoder finds no pixel."""

    def update(self, canvas: Canvas, found: ObjectMask | None) -> ObjectMask | None:
        assert found is not None
        return super().update(canvas, replace(found, logits=np.full_like(found.logits, -5)))


@dataclass(frozen=True, kw_only=True)
class NothingFound(RunOptions):
    def make_track(self, source: Source) -> MakeTrack:
        return Nothing


async def test_an_empty_mask_is_lost_and_told(mini_bundle: Bundle, tmp_path: Path) -> None:
    terminal = io.StringIO()
    chosen = NothingFound(out=tmp_path / "out", threads=1, allow_undistilled=True)
    picture = open_source(write_photo(tmp_path / "a.png"))
    summary = await run(mini_bundle, picture, chosen, terminal=terminal)
    for line in mask_lines(tmp_path / "out"):
        assert (line["state"], line["segmentation"], line["bbox"], line["area"]) == ("lost", None, None, 0)
    (warning,) = summary["warnings"]
    assert warning.startswith("no frame shows object cup, table: nothing was found")
    assert f"warning: {warning}" in terminal.getvalue().splitlines()
    assert summary["nothing_done"] is None


class Broken(Film):
    """A film that says what it left out: at the start, and at its end."""

    warnings: tuple[str, ...] = ("2 files are no pictures: a.txt, b.xmp",)

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(0, "000", 0.0, photo("16:9"), None)
        for number in range(1, self.count or 0):
            yield Frame(number, f"{number:03}", float(number), NOTHING, f"part {number} is damaged")
        self.warnings += ("the film ends early: 30 frames were expected",)


async def test_what_was_left_out_lost_or_cut_is_told_and_in_the_summary(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    terminal = io.StringIO()
    prompts = Prompts((*PROMPTS.entries, Prompt("late", (150, 60, 450, 300), from_frame=30)))
    summary = await run(mini_bundle, Broken(20), options(tmp_path / "out"), prompts, terminal)
    lines = terminal.getvalue().splitlines()
    assert lines[0] == "warning: 2 files are no pictures: a.txt, b.xmp"
    told = [line for line in lines if line.startswith("frame ")]
    assert told[:6] == [f"frame {number:03} is lost: part {number} is damaged" for number in range(1, 7)]
    assert told[6:] == ["frame 019 is lost: part 19 is damaged (13 times since)"]
    assert summary["messages"] == told
    assert summary["warnings"] == [
        "2 files are no pictures: a.txt, b.xmp",
        "19 of 20 frames are lost: 001, 002, 003 and 16 more",
        "object late was not asked for from frame 30 on: there are 20 frames",
        "the film ends early: 30 frames were expected",
    ]
    assert all(f"warning: {warning}" in lines for warning in summary["warnings"])
    assert lines.index(told[-1]) < lines.index(f"warning: {summary['warnings'][1]}")  # held back until then
    assert summary["nothing_done"] is None


async def test_objects_that_no_frame_comes_for_are_nothing_done(mini_bundle: Bundle, tmp_path: Path) -> None:
    late = Prompts((Prompt("late", (150, 60, 450, 300), from_frame=5),))
    summary = await run(mini_bundle, Film(1), options(tmp_path / "out", verify=True), late)
    assert summary["nothing_done"] == "nothing was done: no frame was segmented, so there are no masks"
    assert "nothing was done by --verify: there is no mask to compare" in summary["warnings"]
    assert (summary["frames"], summary["frames_bare"], summary["frames_lost"]) == (1, 1, 0)


class Lost(Film):
    """A film of which no frame can be read."""

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.count or 0):
            yield Frame(number, f"{number:03}", float(number), NOTHING, "it is damaged")


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


async def test_results_of_an_earlier_run_stay_until_there_are_others(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    chosen = options(tmp_path / "out")
    await run(mini_bundle, Film(1), chosen)
    before = everything_in(tmp_path)
    terminal = io.StringIO()
    console = make_console(file=terminal, width=200)
    verified = replace(chosen, verify=True)
    summary = await run_session(mini_bundle, Lost(2), PROMPTS, verified, console)
    assert everything_in(tmp_path) == before
    assert summary["nothing_done"].endswith(f"; {tmp_path / 'out'} still holds the results of an earlier run")
    assert summary["iou_with_unsplit"] is None

    def fail(number: int) -> None:
        raise InputError("the film has gone")

    with pytest.RaisesGroup(pytest.RaisesExc(InputError), allow_unwrapped=True, flatten_subgroups=True):
        await run_session(mini_bundle, Film(1, fail), PROMPTS, chosen, console)
    assert everything_in(tmp_path) == before
    assert "are gone now" not in terminal.getvalue()
    await run(mini_bundle, Film(1), chosen, terminal=terminal)
    assert "held results of an earlier run, which are gone now" in terminal.getvalue()


async def test_the_loop_does_not_wait_for_sizes_and_a_run_locks_its_ledger_once(
    mini_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Slow(Film):
        def sizes(self) -> frozenset[tuple[int, int]]:
            asked.append(threading.get_ident())
            return super().sizes()

    monkeypatch.delattr(run_options, "check_ledger")  # which is for a trial alone
    await run(mini_bundle, Slow(1), options(tmp_path / "out"))
    assert asked
    assert threading.get_ident() not in asked


def stop() -> Stop:
    """Nobody has stopped the run."""
    return Stop(lambda: None, print, lambda: None)


@pytest.mark.parametrize("live", [False, True])
def test_that_results_are_gone_is_told_where_there_were_any(
    mini_bundle: Bundle, tmp_path: Path, live: bool
) -> None:
    """A live run's summary makes way for the next one at every start of a service; its recordings stay."""
    with run_folder(tmp_path, ["summary.json"]) as folder:
        folder.note(tmp_path / "summary.json")
        (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    source, text = Film(1), io.StringIO()
    source.live = live
    messages = Messages(make_console(file=text))
    with run_folder(tmp_path, ["summary.json"]) as folder:
        whole = session._Run(mini_bundle, source, options(tmp_path, record=False), messages, folder, stop())
        assert session._begin(whole, folder, source.sizes()) == ()
    assert not (tmp_path / "summary.json").exists()
    assert ("which are gone now" in text.getvalue()) is not live


def test_the_last_line_about_each_site_is_true() -> None:
    text = io.StringIO()
    messages = Messages(make_console(file=text), clock=lambda: 0.0)
    for _ in range(2):
        for name in "ab":
            session._tell_of_site(messages, f"site {name}: gave no answer within 10.0 s")
            session._tell_of_site(messages, f"site {name}: is back and has its windows again")
    session._tell_of_site(messages, "site a: gave no answer within 9.9 s")
    messages.report_all()
    assert text.getvalue().splitlines()[4:] == [
        "site b: is back and has its windows again (the last of 2 messages since)",
        "site a: gave no answer within 9.9 s (the last of 3 messages since)",
    ]


def test_a_frame_whose_overlay_cannot_be_written_has_no_masks(mini_bundle: Bundle, tmp_path: Path) -> None:
    """A recording on a full disk writes that frame once more, into its next part."""
    chosen, messages = options(tmp_path), Messages(make_console(file=io.StringIO()))
    whole = session._Run(mini_bundle, Film(1), chosen, messages, None, stop())
    sinks = session._write_into(whole, whole.source.sizes(), lambda path: None, tmp_path)
    close_all(sinks)
    assert [isinstance(sink, MaskLines) for sink in sinks] == [False, True]
