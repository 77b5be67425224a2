"""Pictures of what operators hold: made for who asks, once for all, and not too often."""

from __future__ import annotations

import io
import json
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from runtime.preview.held_pictures import EVERY_S, HeldEncoder
from runtime.preview.protocol import decode_frame
from runtime.preview.viewers import WRONG_TOKEN
from stages.errors import InputError
from stages.tile_code import TileCode
from tests.support.live import SITES, FakeLive
from tests.support.watchers import Frame, RunningPreview, Watcher, running_preview

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


async def clicked(live: FakeLive) -> FakeLive:
    """With an object, so that tiles leave."""
    await live.prompt_at(300, 200)
    live.advance()
    return live


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("code", ["rgb", "dct:10/3"])
async def test_a_picture_is_what_left_and_black_where_nothing_did(code: str) -> None:
    live = FakeLive(code=TileCode.parse(code))
    live.kept, live.kept_now = {6}, {7, 12}
    await clicked(live)
    encoder = HeldEncoder(live, every_s=0)
    windows = dict[int, str]()
    for _, operator in SITES:
        header, png = decode_frame(await encoder.after(operator, 0))
        found, mine = pixels_of(png), [window["index"] for window in header["windows"]]
        assert (header["type"], header["operator"], header["pixels"]) == ("holds", operator, True)
        assert found.shape == (216, 384, 3)
        for window in range(15):
            shown = tile(found, window)
            if window in mine:
                left = live.left[operator, window].reshape(1, -1)
                decoded = np.rint(TileCode.parse(code).decode(left, live.geometry)[0])
                assert np.array_equal(shown, decoded[: shown.shape[0], : shown.shape[1]])
            else:
                assert not shown.any()
        assert header["share"] == pytest.approx(sum(map(share, mine)), abs=1e-4)
        windows |= dict.fromkeys(mine, operator)
    assert set(windows) == set(range(15)) - {6, 7, 12}


def tile(pixels: npt.NDArray[np.uint8], window: int) -> npt.NDArray[np.uint8]:
    row, col = divmod(window, 5)
    return pixels[80 * row : 80 * row + 80, 80 * col : 80 * col + 80]


def share(window: int) -> float:
    row, col = divmod(window, 5)
    return min(80, 216 - 80 * row) * min(80, 384 - 80 * col) / (216 * 384)


async def test_the_newest_tiles_come_and_only_when_there_are_some() -> None:
    live = await clicked(FakeLive())
    encoder = HeldEncoder(live, every_s=0)
    first, png = decode_frame(await encoder.after("alpha", 0))
    again, _ = decode_frame(await encoder.after("alpha", 0))
    assert again["number"] == first["number"]
    assert encoder.encoded == 1  # nothing has left since
    with anyio.move_on_after(0.05) as waiting:
        await encoder.after("alpha", first["number"])
    assert waiting.cancelled_caught
    live.advance()
    second, newer = decode_frame(await encoder.after("alpha", first["number"]))
    assert second["number"] > first["number"]
    assert newer != png


async def test_ages_are_those_at_the_time_of_asking() -> None:
    live = await clicked(FakeLive())
    now_s, encoder = live.held.clock(), HeldEncoder(live, every_s=0)
    await encoder.after("alpha", 0)
    live.held.clock = lambda: now_s + 40
    header, _ = decode_frame(await encoder.after("alpha", 0))
    assert all(39 < window["age_s"] < 41 for window in header["windows"])
    assert encoder.encoded == 1


async def test_they_are_made_once_for_all_and_at_a_bounded_rate() -> None:
    live = await clicked(FakeLive())
    encoder = HeldEncoder(live, every_s=1000)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(encoder.after, "alpha", 0)
    assert encoder.encoded == 1
    live.advance()
    header, _ = decode_frame(await encoder.after("alpha", 0))  # a new viewer need not wait
    for operator in ("alpha", "beta"):  # whoever wants more, or of somebody else
        with anyio.move_on_after(0.05) as waiting:
            await encoder.after(operator, header["number"])
        assert waiting.cancelled_caught
    assert encoder.encoded == 1
    assert EVERY_S == 0.5


async def test_nobody_is_an_operator_but_those_of_the_sites() -> None:
    encoder = HeldEncoder(FakeLive())
    with pytest.raises(InputError, match=r"there is no operator 'alph\\u202e'$"):
        await encoder.after("alph\u202e", 0)


async def held(watcher: Watcher, operator: str) -> Frame:
    """The next picture of what is held, which is of this operator."""
    message = await watcher.binary("holds")
    assert message.header["operator"] == operator
    return message


async def count(run: RunningPreview) -> int:
    """How many pictures were made, after whatever goes on by itself."""
    await anyio.wait_all_tasks_blocked()
    return run.live.held.pictures


async def test_who_looks_gets_one_picture_and_who_does_not_gets_none() -> None:
    async with running_preview(await clicked(FakeLive())) as run:
        looking, other = await run.watch(), await run.watch()
        for _ in range(3):
            run.live.advance()
            await other.frame()
        assert await count(run) == 0
        await looking.say("look", operator="beta", after=0)
        first = await held(looking, "beta")
        assert pixels_of(first.file).any()
        for _ in range(3):  # more has left, and it has not asked for that
            run.live.advance()
            await other.frame()
        assert await count(run) == 1
        await looking.say("look", operator="beta", after=first.header["number"])
        assert (await held(looking, "beta")).header["number"] > first.header["number"]
    assert not any(frame.header["type"] == "holds" for frame in other.frames)


@pytest.mark.parametrize("operator", [None, "gamma"])
async def test_a_look_is_taken_back_by_null_and_by_the_next_one(operator: str | None) -> None:
    async with running_preview(await clicked(FakeLive())) as run:
        watcher, newest = await run.watch(), run.live.held.by("gamma").version
        await watcher.say("look", operator="alpha", after=run.live.held.by("alpha").version)
        await watcher.say("look", operator=operator, after=newest)
        await watcher.say("pause", id=1, paused=False)
        await watcher.text("done")  # by now it has been heard
        run.live.advance()  # now there is something newer of both
        await watcher.say("look", operator="gamma", after=newest)
        assert pixels_of((await held(watcher, "gamma")).file).any()
        assert await count(run) == 1


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"operator": "delta"}, "there is no operator 'delta'"),
        ({"operator": 7}, "operator is 7, expected the name of one, or null"),
        ({"operator": "alpha", "after": -1}, "after is -1, expected the number of a picture"),
        ({"operator": "alpha", "token": "x"}, "it has the unknown key 'token'"),
    ],
)
async def test_a_look_that_cannot_be_is_told(message: dict[str, Any], sentence: str) -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.say("look", **message)
        assert sentence in (await watcher.text("error"))["text"]


async def test_a_look_for_nobody_leaves_the_one_that_waits() -> None:
    async with running_preview(await clicked(FakeLive())) as run:
        watcher = await run.watch()
        await watcher.say("look", operator="alpha", after=run.live.held.by("alpha").version)
        await watcher.say("look", operator="delta")
        assert (await watcher.text("error"))["text"] == "there is no operator 'delta'"
        run.live.advance()
        assert pixels_of((await held(watcher, "alpha")).file).any()
        assert await count(run) == 1


async def test_without_the_token_nothing_is_shown() -> None:
    async with running_preview(await clicked(FakeLive())) as run:
        for first in ({"type": "look", "operator": "alpha"}, {"type": "hello", "token": "wrong"}):
            watcher = await run.dial()
            await watcher.socket.send_str(json.dumps(first))
            await watcher.say("look", operator="alpha")
            assert await watcher.closed() == WRONG_TOKEN
            assert watcher.frames == []
        assert await count(run) == 0


async def test_of_what_is_no_pixels_the_windows_are_told_alone() -> None:
    async with running_preview(await clicked(FakeLive(code=None))) as run:
        watcher = await run.watch()
        await watcher.say("look", operator="alpha")
        message = await held(watcher, "alpha")
    assert (message.header["pixels"], message.file) == (False, b"")
    assert len(message.header["windows"]) == 5
