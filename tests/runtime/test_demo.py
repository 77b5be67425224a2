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

from runtime.demo import PAN_STEPS, SCENES, Pan, photo, run_demo, run_live_demo
from runtime.live import Live, Request
from runtime.prompts import read_prompts
from runtime.sources import PictureSource
from stages.bundle import Bundle
from stages.errors import InputError
from tests.pictures import stamped

pytestmark = pytest.mark.anyio


async def test_the_demo(mini_bundle: Bundle, tmp_path: Path) -> None:
    """The slow one: three processes, two photographs, every mask verified."""
    out = tmp_path / "demo"
    (out / "overlay").mkdir(parents=True)
    (out / "prompts.json").touch()  # so that it looks like an earlier demo, whose place this one takes
    (out / "overlay/old.jpg").touch()
    summary = await run_demo(mini_bundle, out, 4, None, Console(file=io.StringIO()))
    assert json.loads((out / "summary.json").read_text()) == summary
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
    read_prompts((), (), out / "prompts.json").check_inside([(360, 640)])


@pytest.mark.parametrize("make", ["folder", "file"])
async def test_the_demo_removes_nothing_but_an_earlier_demo(
    mini_bundle: Bundle, tmp_path: Path, make: str
) -> None:
    out = tmp_path / "out"
    if make == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(InputError, match="was not made by pedsam demo; give another --out"):
        await run_demo(mini_bundle, out, 4, None, Console(file=io.StringIO()))
    assert (out / "thesis.txt" if make == "folder" else out).read_text() == "years of work"


async def test_the_demo_without_an_end_waits_for_a_click_and_ends_with_ctrl_c(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """Real site processes and the endless pan; the viewer clicks on the astronaut."""

    async def click(live: Live) -> None:
        with anyio.fail_after(120):
            version, shown = await live.frames.after(0)
            assert not any(site["tiles"] for site in live.status()["sites"])
            await live.prompt(Request(shown.number, box_xyxy=(100, 20, 500, 350)))
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
    frames = [np.asarray(pan.read()[1]) for _ in range(2 * PAN_STEPS + 1)]
    first, second, middle, last_but_one, again = (
        frames[number] for number in (0, 1, PAN_STEPS, 2 * PAN_STEPS - 1, 2 * PAN_STEPS)
    )
    assert first.shape == (360, 640, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(second, last_but_one)
    assert not np.array_equal(first, middle)
