"""`pedsam demo`: the whole line, and the care it takes with the folder it empties."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
from rich.console import Console

from runtime.demo.demo import MARKER, PAN_STEPS, SCENES, Pan, photo, run_demo, run_live_demo, write_frames
from runtime.frames.sources import PictureSource
from runtime.live.interface import Live
from runtime.objects.prompts import PromptRequest, read_prompts
from runtime.results.run_folder import locked_folder
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.pictures import stamped

pytestmark = pytest.mark.anyio


async def test_the_demo(mini_bundle: Bundle, tmp_path: Path) -> None:
    """The slow one: three processes, two photographs, every mask verified."""
    out = tmp_path / "demo"
    (out / "overlay").mkdir(parents=True)
    (out / MARKER).touch()  # an earlier demo's folder, whose place this one takes
    (out / "overlay/old.jpg").touch()
    summary = await run_demo(mini_bundle, out, 4, None, Console(file=io.StringIO()))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (out / MARKER).is_file()  # so that the next demo may take its place
    assert (summary["frames"], summary["frames_lost"], summary["windows_skipped_as_padding"]) == (4, 0, 10)
    assert summary["iou_with_unsplit"] >= 0.999
    assert [len(site["windows_seen"]) for site in summary["sites"].values()] == [5, 5, 5]
    assert [site["tiles_served"] for site in summary["sites"].values()] == [20, 20, 20]
    assert len((out / "masks.jsonl").read_text().splitlines()) == 8
    frames = sorted((out / "frames").iterdir())
    assert [path.stem for path in frames] == sorted(path.stem for path in (out / "overlay").iterdir())
    first, second = (frame.pixels for frame in PictureSource(frames[:2]))
    (overlay,) = PictureSource([out / f"overlay/{frames[0].stem}.jpg"])
    assert stamped(first, overlay.pixels)  # these weights draw nothing of use
    assert first.shape == (360, 640, 3)
    assert np.abs(first.astype(int) - second).mean() > 5  # the camera moves
    read_prompts((), (), out / "prompts.json").inside([(360, 640)], pytest.fail)


async def run_quiet(bundle: Bundle, out: Path, live: bool) -> None:
    console = Console(file=io.StringIO())
    if live:
        await run_live_demo(bundle, out, None, console, ())
    else:
        await run_demo(bundle, out, 4, None, console)


@pytest.mark.parametrize("live", [False, True], ids=["film", "endless"])
@pytest.mark.parametrize("names", [("thesis.txt",), ("prompts.json", "thesis.txt"), ("prompts.json",)])
async def test_a_folder_that_the_demo_did_not_make_is_left_alone(
    mini_bundle: Bundle, tmp_path: Path, names: tuple[str, ...], live: bool
) -> None:
    """prompts.json is the name under which the README keeps a live run's objects."""
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("years of work")
    with pytest.raises(InputError, match="files that pedsam demo did not make; give another --out"):
        await run_quiet(mini_bundle, out, live)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "years of work")


@pytest.mark.parametrize("live", [False, True], ids=["film", "endless"])
async def test_two_demos_at_once_into_one_folder_are_refused(
    mini_bundle: Bundle, tmp_path: Path, live: bool
) -> None:
    (tmp_path / MARKER).touch()
    (tmp_path / "masks.jsonl").write_text("of the first")
    with locked_folder(tmp_path, MARKER), pytest.raises(InputError, match="another run writes into"):
        await run_quiet(mini_bundle, tmp_path, live)
    assert (tmp_path / "masks.jsonl").read_text() == "of the first"


SITE_FILES = ("site-a.log", "site-b.log", "site-c.log", "sites.toml")


@pytest.mark.parametrize("names", [(".pedsam-demo",), SITE_FILES], ids=["marked", "before the marker"])
def test_only_what_a_demo_made_is_replaced(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "photographs").mkdir()
    for name in (*names, "frames/000.png", "masks.jsonl", "notes.txt", "photographs/a.jpg"):
        (tmp_path / name).write_text("of before")
    paths, _ = write_frames(tmp_path, 2)
    kept = {".pedsam-demo", "frames", "prompts.json", "notes.txt", "photographs"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "photographs/a.jpg").read_text() == (tmp_path / "notes.txt").read_text() == "of before"
    assert sorted((tmp_path / "frames").iterdir()) == paths


@pytest.mark.parametrize("place", ["file/out", "nowhere", "/proc/demo"])
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing/folder")
    with pytest.raises(InputError, match=r"cannot write|is a file where a folder is needed"):
        write_frames(tmp_path / place, 2)


async def test_a_file_in_place_of_the_folder_is_left_alone(mini_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("years of work")
    with pytest.raises(InputError, match="is a file where a folder is needed; give another --out"):
        await run_quiet(mini_bundle, out, live=False)
    assert out.read_text() == "years of work"


async def test_the_demo_without_an_end_waits_for_a_click_and_ends_with_ctrl_c(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """Real site processes and the endless pan; the viewer clicks on the astronaut."""

    async def click(live: Live) -> None:
        with anyio.fail_after(120):
            version, shown = await live.frames.after(0)
            assert not any(site.tiles for site in live.status().sites)
            await live.prompt(PromptRequest(shown.number, box_xyxy=(100, 20, 500, 350)))
            while not shown.objects:
                version, shown = await live.frames.after(version)
        signal.raise_signal(signal.SIGINT)

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(click, live)
            yield "watching"

    summary = await run_live_demo(
        mini_bundle, tmp_path / "demo", None, Console(file=io.StringIO()), [watcher]
    )
    assert summary["frames_lost"] == 0
    assert summary["frames_bare"] > 0
    assert [len(site["windows_seen"]) for site in summary["sites"].values()] == [5, 5, 5]


def test_the_pan_goes_there_and_back_without_an_end() -> None:
    pan = Pan(photo(SCENES[0].photo), SCENES[0], fps=1e6)
    frames = [pan.read() for _ in range(2 * PAN_STEPS + 1)]
    first, second, middle, last_but_one, again = (
        frames[number] for number in (0, 1, PAN_STEPS, 2 * PAN_STEPS - 1, 2 * PAN_STEPS)
    )
    assert first.shape == (360, 640, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(second, last_but_one)
    assert not np.array_equal(first, middle)
