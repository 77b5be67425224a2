"""What a live run writes down of its objects, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from runtime.frames.sources import Frame
from runtime.live.newest import Newest
from runtime.live.saved_objects import saving_objects
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.state_file import StateFile, opened_state
from runtime.objects.tracking import FixedPrompt
from runtime.results.result import FrameResult

pytestmark = pytest.mark.anyio


class Run:
    """Objects and the frames that let them be written down."""

    def __init__(self) -> None:
        self.objects = ObjectRegistry(Prompts((Prompt("cup", (0, 0, 9, 9)),)), FixedPrompt)
        self.objects.start_due(0)
        self.frames: Newest[FrameResult] = Newest()

    def show(self) -> None:
        self.frames.put(FrameResult(Frame(0, "0", 0.0, np.zeros((1, 1, 3), np.uint8)), ()))

    def move(self, *box: float) -> None:
        x0, y0, x1, y1 = box
        self.objects.entries[0].box = (x0, y0, x1, y1)


class Told(list[str]):
    """Sentences; waited for."""

    async def until(self, words: str) -> None:
        with anyio.fail_after(60):
            while not any(words in line for line in self):  # noqa: ASYNC110  (by a thread)
                await anyio.sleep(0.01)


async def written(path: Path, *entries: Prompt) -> None:
    """Until the file holds just these, as they were asked for."""
    with anyio.fail_after(60):
        while held(path) != list(entries):  # noqa: ASYNC110  (by a thread)
            await anyio.sleep(0.01)


def held(path: Path) -> list[Prompt]:
    """Each object by the box where it was seen last, else as it was asked for."""
    with opened_state(path, None, lambda line: None, lock=False) as (_, prompts):
        return [replace(each, asked=None) for each in prompts.entries]


async def test_a_change_is_written_down_at_once_and_a_move_at_the_end(tmp_path: Path) -> None:
    run, path = Run(), tmp_path / "objects.json"
    async with saving_objects(StateFile(path, ""), run.objects, run.frames, pytest.fail, interval_s=3600):
        await anyio.lowlevel.checkpoint()  # it has begun
        run.objects.rename("cup", "mug")
        run.show()
        await written(path, Prompt("mug", (0, 0, 9, 9)))
        run.move(5, 5, 50, 50)
        run.show()
    await written(path, Prompt("mug", (5, 5, 50, 50)))


async def test_a_move_is_written_down_now_and_then(tmp_path: Path) -> None:
    run, path = Run(), tmp_path / "objects.json"
    async with saving_objects(StateFile(path, ""), run.objects, run.frames, pytest.fail, interval_s=0):
        run.move(5, 5, 50, 50)
        run.show()
        await written(path, Prompt("cup", (5, 5, 50, 50)))


async def test_a_file_that_cannot_be_written_is_told_once_and_when_it_can_again(tmp_path: Path) -> None:
    run, path, told, tried = Run(), tmp_path / "absent/objects.json", Told(), Told()

    class Tried(StateFile):
        def write(self, prompts: Prompts) -> None:
            tried.append(f"{prompts.entries[0].box_xyxy}")
            super().write(prompts)

    async with saving_objects(Tried(path, ""), run.objects, run.frames, told.append, interval_s=0):
        for left in range(5):
            run.move(left, 5, 50, 50)
            run.show()
            await tried.until(f"({left}, 5, 50, 50)")
        (line,) = told
        assert line.startswith(f"the objects cannot be kept for the next start: state file {path} cannot be ")
        assert "No such file or directory" in line
        path.parent.mkdir()
        run.show()
        await told.until("are kept again")
        await written(path, Prompt("cup", (4, 5, 50, 50)))
    assert len(told) == 2


async def test_a_run_ends_as_ever_where_its_objects_cannot_be_written(tmp_path: Path) -> None:
    run, told = Run(), Told()
    async with saving_objects(
        StateFile(tmp_path / "absent/objects.json", ""), run.objects, run.frames, told.append
    ):
        pass
    assert len(told) == 1
