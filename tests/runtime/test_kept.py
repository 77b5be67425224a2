"""What is kept, and `--when-sites-fail`, in whole runs."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pedsam.command import main
from runtime.edge_toml import read_edge
from runtime.frames.kept import KeptBoxes
from runtime.frames.sources import Frame
from runtime.live.interface import Live
from runtime.live.status import Status
from runtime.objects.prompts import Prompt, Prompts
from runtime.options import KEEP_BOXES, WHEN_SITES_FAIL
from runtime.pipeline import PipelineOptions
from runtime.session import run_session
from stages.bundle import Bundle
from stages.console import make_console
from stages.errors import InputError
from tests.runtime.detectors.test_detectors import ASTRONAUT
from tests.runtime.test_session import PROMPTS, Film, edge_only, mask_lines, options, real_sites, run
from tests.support.edge import Impostor, sites_file, status, write_photo

pytestmark = pytest.mark.anyio

BOX = (150.0, 120.0, 280.0, 200.0)
KEPT = [1, 2, 6, 7]
FACE = Prompts((Prompt("face", (150.0, 60.0, 300.0, 220.0)),))
NOBODY = (("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
SHIPPED = Path(__file__).parents[2] / "stages/mini"


async def test_a_run_keeps_the_windows_of_a_box_and_its_masks_are_the_same(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    alone = options(tmp_path / "alone")
    await run(mini_bundle, Film(2), alone)
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, keep_boxes=(BOX,))
        summary = await run(mini_bundle, Film(2), chosen)
    assert mask_lines(tmp_path / "out") == mask_lines(tmp_path / "alone")
    assert (summary["kept_windows"], summary["kept_windows_run"]) == (KEPT, 8)
    assert summary["kept_windows_per_frame"] == 4
    assert summary["kept_ms_per_frame"] > 0
    assert (summary["windows_run_at_edge"], summary["windows_sent_per_frame"]) == (0, 11)
    assert {site["operator_cap"] for site in summary["sites"].values()} == {4}  # 11 windows, 3 operators
    seen = {window for site in summary["sites"].values() for window in site["windows_seen"]}
    assert seen == set(range(15)) - set(KEPT)


async def test_whoever_watches_is_told_which_windows_are_kept(mini_bundle: Bundle, tmp_path: Path) -> None:
    told: list[Status] = []

    @asynccontextmanager
    async def watch(live: Live) -> AsyncIterator[str]:
        yield ""
        told.append(live.status())

    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, keep_boxes=(BOX,))
        console = make_console(file=io.StringIO(), width=200)
        await run_session(mini_bundle, Film(1), PROMPTS, chosen, console, [watch])
    (status,) = told
    assert (status.kept_windows_run, status.windows_run_at_edge) == (4, 0)
    states = {window.index: (window.sent, window.kept) for window in status.windows}
    assert [index for index, state in states.items() if state == (False, True)] == KEPT
    assert [index for index, state in states.items() if state == (False, False)] == list(range(15, 25))
    assert list(states.values()).count((True, False)) == 11


async def test_what_operators_saw_before_is_not_shown_to_them_again(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    async with real_sites(mini_bundle, tmp_path) as sites:
        await run(mini_bundle, Film(1), options(tmp_path / "a", sites=sites))
        chosen = options(tmp_path / "b", sites=sites, keep_boxes=(BOX,))
        summary = await run(mini_bundle, Film(2), chosen)
    seen = {window for site in summary["sites"].values() for window in site["windows_seen"]}
    assert seen == set(range(15)) - set(KEPT)
    assert summary["kept_windows_run"] == 8


async def test_without_the_engine_it_is_a_sentence_before_any_site_is_asked(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    edge = edge_only(mini_bundle, tmp_path / "edge")
    site = Impostor(mini_bundle)
    async with site.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url), ("b", f"{url}/b"))
        wrong: tuple[tuple[Bundle, dict[str, Any], str], ...] = (
            (
                edge,
                {"keep_boxes": (BOX,)},
                "--keep-box has windows computed here, and .* no window stage",
            ),
            (edge, {"when_sites_fail": "local"}, "--when-sites-fail local has windows computed here, and"),
            (mini_bundle, {"keep_boxes": ((9.0, 9.0, 9.0, 9.0),)}, "--keep-box 9,9,9,9 is empty"),
            (
                mini_bundle,
                {"keep_boxes": ((900.0, 9.0, 990.0, 99.0),)},
                "lies outside the frame of 640 x",
            ),
        )
        for bundle, more, words in wrong:
            with pytest.raises(InputError, match=words):
                await run(bundle, Film(1), options(tmp_path / "out", sites=sites, **more))
    assert site.requests == []
    assert not (tmp_path / "sites.ledger.json").exists()


async def test_lose_loses_what_no_site_may_have_and_computes_what_is_kept(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    bad = Impostor(mini_bundle, always=status(500, "no"))
    async with bad.running() as bad_url, real_sites(mini_bundle, tmp_path, "ab") as sites:
        sites_file(tmp_path / "more.toml", ("c", bad_url))
        sites.write_text(sites.read_text() + (tmp_path / "more.toml").read_text())
        more: dict[str, Any] = {"sites": sites, "keep_boxes": (BOX,), "spot_checks": 0}
        lost = await run(mini_bundle, Film(2), options(tmp_path / "a", when_sites_fail="lose", **more))
        local = await run(mini_bundle, Film(2), options(tmp_path / "b", when_sites_fail="local", **more))
    assert (lost["frames_lost"], lost["windows_run_at_edge"]) == (2, 0)
    wanted = "and --when-sites-fail is lose; add a spare site, raise the caps to 6 each or"
    assert all(wanted in why for why in lost["lost"].values())
    assert (local["frames_lost"], local["kept_windows_run"]) == (0, 8)
    assert local["windows_run_at_edge"] > 0


async def test_a_run_that_would_lose_every_frame_does_not_begin(mini_bundle: Bundle, tmp_path: Path) -> None:
    bad = Impostor(mini_bundle, always=status(500, "no"))
    async with bad.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        more: dict[str, Any] = {"sites": sites, "accept_exposure": True, "when_sites_fail": "lose"}
        with pytest.raises(InputError, match="no site can be used and --when-sites-fail is lose: site a: "):
            await run(mini_bundle, Film(1), options(tmp_path / "out", **more))


class Astronaut(Film):
    """A face, which moves from frame to frame."""

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({(512, 512)})

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.count or 0):
            yield Frame(number, f"{number:03}", float(number), np.roll(ASTRONAUT, 20 * number, axis=1))


async def test_a_face_is_found_and_kept_and_the_masks_are_the_same(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    alone = options(tmp_path / "alone")
    await run(mini_bundle, Astronaut(3), alone, FACE)
    terminal = io.StringIO()
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, keep=("faces",), keep_px=512)
        summary = await run(mini_bundle, Astronaut(3), chosen, FACE, terminal)
    assert mask_lines(tmp_path / "out") == mask_lines(tmp_path / "alone")
    seen = {window for site in summary["sites"].values() for window in site["windows_seen"]}
    of_face = {2, 7}  # the columns from 160 to 240 of the canvas, the face is at 150 of 512 pixels and on
    assert seen
    assert not seen & of_face
    assert (summary["kept_found"]["faces"], summary["kept_windows"]) == (3, [])
    assert summary["kept_windows_run"] >= 3 * len(of_face)
    assert summary["latency_ms"]["keep"]["p50"] > 0
    assert "looking for faces at 512 pixels on the CPU before a frame is sent" in terminal.getvalue()


async def test_for_the_session_positions_stay_that_were_kept_once(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    async with real_sites(mini_bundle, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, keep=("faces",), keep_px=512, keep_for_session=True)
        summary = await run(mini_bundle, Astronaut(1), chosen, FACE)
    seen = {window for site in summary["sites"].values() for window in site["windows_seen"]}
    assert {2, 7} <= set(summary["kept_windows"])
    assert seen == set(range(25)) - set(summary["kept_windows"])


class Square(Film):
    """A bright square that stays where it is, before something dull."""

    BOX = (180.0, 110.0, 290.0, 220.0)

    def __iter__(self) -> Iterator[Frame]:
        pixels = np.full((360, 640, 3), (40, 60, 50), np.uint8)
        pixels[110:220, 180:290] = (250, 220, 40)
        for number in range(self.count or 0):
            pixels[:20, :20] = number * 9
            yield Frame(number, f"{number:03}", float(number), pixels.copy())


async def test_what_is_segmented_is_sent_to_nobody(tmp_path: Path) -> None:
    """From its first frame on, of which all windows stay."""
    shipped = Bundle.load(SHIPPED)
    prompts = Prompts((Prompt("square", Square.BOX),))
    await run(shipped, Square(6), options(tmp_path / "alone"), prompts)
    pipeline = PipelineOptions(in_flight=1)
    async with real_sites(shipped, tmp_path) as sites:
        chosen = options(tmp_path / "out", sites=sites, keep_objects=True, track=True, pipeline=pipeline)
        summary = await run(shipped, Square(6), chosen, prompts)
    assert [line["object"] for line in mask_lines(tmp_path / "out")] == ["square"] * 6
    seen = {window for site in summary["sites"].values() for window in site["windows_seen"]}
    touched = KeptBoxes((Square.BOX,)).windows(shipped.geometry, 360, 640)
    assert seen
    assert not seen & touched


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"keep": ("faces",)}, "--keep has windows computed here"),
        ({"keep_objects": True, "track": True}, "--keep-objects has windows computed here"),
    ],
)
async def test_keeping_needs_the_window_stage_here(
    mini_bundle: Bundle, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    sites = sites_file(tmp_path / "sites.toml", *NOBODY)
    bundle = edge_only(mini_bundle, tmp_path / "edge")
    with pytest.raises(InputError, match=words):
        await run(bundle, Film(1), options(tmp_path / "out", sites=sites, **more))


async def test_objects_that_are_not_followed_cannot_be_kept(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", *NOBODY)
    chosen = options(tmp_path / "out", sites=sites, keep_objects=True, track=False)
    with pytest.raises(InputError, match="needs objects that are followed"):
        await run(mini_bundle, Film(1), chosen)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("face", "'face' is nothing that can be kept; expected faces"),
        ("faces,,text", "'' is nothing"),
        ("no_module:find", "--keep no_module:find cannot be imported"),
    ],
)
def test_an_unknown_kind_is_a_sentence_typed_or_in_the_file(tmp_path: Path, value: str, words: str) -> None:
    picture = write_photo(tmp_path / "photo.png")
    (tmp_path / "edge.toml").write_text(f'[privacy]\nkeep = "{value}"\n')
    begin = ["run", "--source", str(picture), "--point", "9,9", "--out", str(tmp_path / "out"), "--dry-run"]
    for more in (["--keep", value], ["--config", str(tmp_path / "edge.toml")]):
        result = CliRunner().invoke(main, [*begin, *more])
        assert result.exit_code in (1, 2)
        assert words in " ".join(result.output.split())


def test_edge_toml_has_the_boxes_as_a_list(tmp_path: Path) -> None:
    path, known = tmp_path / "edge.toml", {"keep_boxes": KEEP_BOXES, "when_sites_fail": WHEN_SITES_FAIL}
    path.write_text('[privacy]\nkeep_boxes = ["100,80,420,360", "0,0,9,9"]\nwhen_sites_fail = "lose"\n')
    assert read_edge(path, known)["keep_boxes"] == ["100,80,420,360", "0,0,9,9"]
    for text, words in (
        (
            'keep_boxes = "1,2,3,4"',
            r"line 2: keep_boxes in \[privacy\] is '1,2,3,4', expected a list of",
        ),
        ('keep_boxes = ["1,2,3"]', "expected x0,y0,x1,y1 in pixels of the frame, not '1,2,3'"),
        ("keep_boxes = [[1, 2, 3, 4]]", r"keep_boxes in \[privacy\] is \[1, 2, 3, 4\], expected text"),
        ('when_sites_fail = "stop"', "'stop' is not one of 'local', 'lose'"),
    ):
        path.write_text(f"[privacy]\n{text}\n")
        with pytest.raises(InputError, match=words):
            read_edge(path, known)


def test_what_is_typed_and_what_is_in_the_file_arrive_alike(tmp_path: Path) -> None:
    """And that they do nothing without sites is told."""
    picture = write_photo(tmp_path / "photo.png")
    (tmp_path / "edge.toml").write_text('[privacy]\nkeep_boxes = ["1,2,3"]\n')
    begin = ["run", "--source", str(picture), "--point", "9,9", "--out", str(tmp_path / "out"), "--dry-run"]
    typed = CliRunner().invoke(main, [*begin, "--keep-box", "9,9,9,9"])
    assert "--keep-box 9,9,9,9 is empty: give left" in typed.output
    typed = CliRunner().invoke(main, [*begin, "--keep-box", "9,9,90,90", "--when-sites-fail", "lose"])
    assert typed.exit_code == 0, typed.output
    for option in ("--keep-box", "--when-sites-fail"):
        assert f"{option} does nothing without --sites" in " ".join(typed.output.split())
    filed = CliRunner().invoke(main, [*begin, "--config", str(tmp_path / "edge.toml")])
    assert "expected x0,y0,x1,y1" in filed.output
    (tmp_path / "edge.toml").write_text('[privacy]\nkeep_boxes = ["9,9,9,9"]\n')
    filed = CliRunner().invoke(main, [*begin, "--config", str(tmp_path / "edge.toml")])
    assert "--keep-box 9,9,9,9 is empty: give left" in filed.output
