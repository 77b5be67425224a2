"""What a live run writes down of its objects, and when."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from runtime.live import Newest, Shown
from runtime.memory import remembered
from runtime.objects import Objects
from runtime.prompts import Prompt, Prompts, read_prompts
from runtime.tracking import Still
from stages.errors import InputError

pytestmark = pytest.mark.anyio


class Run:
    """Objects and the frames that let them be written down."""

    def __init__(self) -> None:
        self.objects = Objects(Prompts((Prompt("cup", (0, 0, 9, 9)),)), Still)
        self.objects.start_due(0)
        self.frames: Newest[Shown] = Newest()

    def show(self) -> None:
        self.frames.put(Shown(0, 0.0, 0.0, np.zeros((1, 1, 3), np.uint8), ()))

    def move(self, *box: float) -> None:
        x0, y0, x1, y1 = box
        self.objects.entries[0].box = (x0, y0, x1, y1)


async def written(path: Path, *entries: Prompt) -> None:
    """Until the file holds just these."""
    with anyio.fail_after(60):
        while read_prompts((), (), path, required=False).entries != entries:  # noqa: ASYNC110  (by a thread)
            await anyio.sleep(0.01)


async def test_a_change_is_written_down_at_once_and_a_move_at_the_end(tmp_path: Path) -> None:
    run, path = Run(), tmp_path / "prompts.json"
    async with remembered(path, run.objects, run.frames, every_s=3600):
        await anyio.lowlevel.checkpoint()  # it has begun
        run.objects.rename("cup", "mug")
        run.show()
        await written(path, Prompt("mug", (0, 0, 9, 9)))
        run.move(5, 5, 50, 50)
        run.show()
    await written(path, Prompt("mug", (5, 5, 50, 50)))


async def test_a_move_is_written_down_now_and_then(tmp_path: Path) -> None:
    run, path = Run(), tmp_path / "prompts.json"
    async with remembered(path, run.objects, run.frames, every_s=0):
        run.move(5, 5, 50, 50)
        run.show()
        await written(path, Prompt("cup", (5, 5, 50, 50)))


async def test_a_file_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    run = Run()
    with pytest.raises(InputError, match=r"prompts file .* cannot be written"):
        async with remembered(tmp_path / "absent" / "prompts.json", run.objects, run.frames):
            pass
