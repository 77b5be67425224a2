"""A frame that stands still: computed once, and each point changes its mask by the decoder alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image

from runtime.frames.player import Player
from runtime.frames.sources import open_source
from runtime.live.interface import Live
from runtime.live.newest import Newest
from runtime.objects.masks import Mask, iou
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.trust import Trust
from runtime.results.result import FrameResult
from stages.bundle import Bundle, shipped_bundle
from stages.errors import InputError
from tests.support.clips import clip
from tests.support.edge import write_photo
from tests.support.live_runs import (
    NOTHING_ASKED,
    PATIENCE_S,
    background_run,
    counted_sites,
    live_run,
    objects,
    run_options,
)

pytestmark = pytest.mark.anyio

CUP = (320.0, 180.0, 1)
TABLE = (60.0, 60.0, 0)
BOX = (180.0, 60.0, 470.0, 330.0)


class Played:
    """A run on a file that viewers go through; `version` is that of the frame that was seen last."""

    def __init__(self, live: Live, player: Player) -> None:
        self.live, self.player = live, player
        self.version = 0

    async def shown(self, condition: Any = lambda shown: True) -> FrameResult:
        """The next frame for which this holds."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                self.version, shown = await self.live.frames.after(self.version)
                if condition(shown):
                    return shown

    async def point(self, number: int, *points: tuple[float, float, int], name: str | None = None) -> str:
        return await self.live.prompt(PromptRequest(number, name, points))

    def computed(self) -> int:
        """Frames whose windows were computed, here or at sites."""
        status = self.live.status()
        return status.windows_run_at_edge + status.windows_sent


@asynccontextmanager
async def played(
    path: Path, bundle: Bundle | None = None, prompts: Prompts = NOTHING_ASKED, **more: Any
) -> AsyncIterator[Played]:
    player = Player(open_source(path))
    made: list[Played] = []

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        made.append(Played(live, player))
        yield "watching"

    options = run_options(more.pop("sites", None), **more)
    used = bundle or Bundle.load(shipped_bundle())
    async with background_run(used, player, prompts, options, watcher):
        player.watched(True)
        yield made[0]


def mask_of(shown: FrameResult, name: str) -> Mask:
    mask = objects(shown)[name].mask
    assert mask is not None
    return mask


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    return write_photo(tmp_path / "cup.png")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    write_photo(folder / "a.png")
    write_photo(folder / "b.png", "4:3")
    return folder


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return clip(tmp_path / "film.mp4", 8, codec="libx264", fps=25, size=(144, 256))


async def test_each_point_changes_the_mask_of_a_photo_and_only_the_decoder_runs(photograph: Path) -> None:
    async with played(photograph) as run:
        first = await run.shown()
        assert (first.objects, run.computed()) == ((), 15)
        name = await run.point(0, CUP)
        one = await run.shown(lambda shown: shown.objects)
        assert one.number == 0
        await run.point(0, TABLE, name=name)
        two = await run.shown()
        assert iou(mask_of(one, name), mask_of(two, name)) < 1
        again = await run.live.prompt(PromptRequest(0, None, (), BOX))
        three = await run.shown()
        assert list(objects(three)) == [name, again]
        run.live.rename(name, "cup")
        assert list(objects(await run.shown())) == ["cup", again]
        run.live.remove(again)
        assert list(objects(await run.shown())) == ["cup"]
        assert run.computed() == 15
        assert run.live.status().frames == 1


async def test_what_a_click_would_take_is_what_it_takes_and_changes_nothing(photograph: Path) -> None:
    async with played(photograph) as run:
        await run.shown()
        request = PromptRequest(0, None, (CUP,))
        tried = await run.live.would_find(request)
        assert tried is not None
        assert tried.mask is not None
        assert run.live.frames.value is not None
        assert run.live.frames.value.objects == ()
        name = await run.live.prompt(request)
        assert name == "1"  # trying takes no names
        found = mask_of(await run.shown(lambda shown: shown.objects), name)
        assert iou(found, tried.mask) == 1.0
        refined = await run.live.would_find(PromptRequest(0, name, (TABLE,)))
        await run.point(0, TABLE, name=name)
        assert refined is not None
        assert refined.mask is not None
        assert iou(mask_of(await run.shown(), name), refined.mask) == 1.0


async def test_a_try_that_cannot_be_is_refused_and_one_elsewhere_finds_nothing(photograph: Path) -> None:
    async with played(photograph) as run:
        await run.shown()
        with pytest.raises(InputError, match="no object ghost"):
            await run.live.would_find(PromptRequest(0, "ghost", (CUP,)))
        with pytest.raises(InputError, match="outside"):
            await run.live.would_find(PromptRequest(0, None, ((5000.0, 10.0, 1),)))
        assert await run.live.would_find(PromptRequest(7, None, (CUP,))) is None


async def test_undo_and_redo_go_through_points_boxes_and_removals(photograph: Path) -> None:
    async with played(photograph) as run:
        await run.shown()
        with pytest.raises(InputError, match="nothing to undo"):
            run.live.undo()
        name = await run.point(0, CUP)
        one = mask_of(await run.shown(), name)
        await run.point(0, TABLE, name=name)
        two = mask_of(await run.shown(), name)
        run.live.remove(name)
        assert (await run.shown()).objects == ()
        for expected in (two, one):
            assert run.live.undo() == name
            assert iou(mask_of(await run.shown(), name), expected) == 1.0
        assert run.live.undo() == name
        assert (await run.shown()).objects == ()
        status = run.live.status()
        assert (status.undoable, status.redoable) == (False, True)
        for expected in (one, two):
            run.live.redo()
            assert iou(mask_of(await run.shown(), name), expected) == 1.0
        run.live.undo()
        await run.shown()
        await run.point(0, (330.0, 200.0, 1), name=name)  # something else instead
        await run.shown()
        with pytest.raises(InputError, match="nothing to redo"):
            run.live.redo()


async def test_an_undone_removal_keeps_clear_of_names_and_colours_given_since(photograph: Path) -> None:
    async with played(photograph) as run:
        await run.shown()
        first = await run.point(0, CUP)
        run.live.remove(first)
        second = await run.point(0, (*TABLE[:2], 1))
        run.live.rename(second, "cup")
        run.live.undo()  # the second one's point
        run.live.undo()  # the removal
        run.live.redo()
        run.live.undo()
        shown = await run.shown(lambda shown: list(objects(shown)) == [first])
        assert objects(shown)[first].colour == 0


async def test_a_lone_point_may_mean_three_things_of_which_one_is_chosen(photograph: Path) -> None:
    async with played(photograph) as run:
        await run.shown()
        name = await run.point(0, CUP)
        found = objects(await run.shown(lambda shown: shown.objects and shown.objects[0].choices))[name]
        assert len(found.choices) == 3
        best = int(np.argmax([choice.iou for choice in found.choices]))
        assert found.mask is not None
        assert iou(found.mask, found.choices[best].mask) == 1.0
        for number in (1, 2, 3):
            await run.live.choose(name, number)
            chosen = mask_of(await run.shown(), name)
            assert iou(chosen, found.choices[number - 1].mask) == 1.0
        run.live.undo()
        assert iou(mask_of(await run.shown(), name), found.choices[1].mask) == 1.0
        await run.point(0, TABLE, name=name)
        assert objects(await run.shown())[name].choices == ()
        with pytest.raises(InputError, match="one point alone"):
            await run.live.choose(name, 1)
        with pytest.raises(InputError, match="no object ghost"):
            await run.live.choose("ghost", 1)


async def test_a_picture_that_cannot_be_read_says_why_and_is_not_pointed_at(album: Path) -> None:
    (album / "b.png").write_bytes(b"\x89PNG")
    async with played(album) as run:
        await run.shown()
        run.player.step(1)
        shown = await run.shown(lambda shown: shown.lost)
        assert "b.png" in (shown.lost or "")
        assert shown.objects == ()
        with pytest.raises(InputError, match="could not be read"):
            await run.point(shown.number, CUP)
        with pytest.raises(InputError, match="cannot be held"), run.live.holding(shown):
            pass


async def test_the_choices_of_a_large_photo_are_small(tmp_path: Path) -> None:
    """They are for a page to choose from; the mask that is taken has the photo's own pixels."""
    Image.new("RGB", (4000, 2250), (90, 120, 60)).save(tmp_path / "large.png")
    async with played(tmp_path / "large.png") as run:
        await run.shown()
        name = await run.point(0, (2000.0, 1000.0, 1))
        found = objects(await run.shown(lambda shown: shown.objects))[name]
        assert found.mask is not None
        assert found.mask.shape == (2250, 4000)
        assert {choice.mask.shape for choice in found.choices} == {(720, 1280)}


async def test_pictures_have_objects_of_their_own_and_have_them_again(album: Path) -> None:
    async with played(album) as run:
        await run.shown()
        name = await run.point(0, CUP)
        found = mask_of(await run.shown(lambda shown: shown.objects), name)
        run.player.step(1)
        other = await run.shown(lambda shown: shown.frame.name == "b")
        assert other.objects == ()
        run.player.step(-1)
        again = await run.shown(lambda shown: shown.frame.name == "a")
        assert again.number == 2
        assert iou(mask_of(again, name), found) == 1.0


async def test_what_is_given_at_the_start_is_asked_for_on_every_picture(album: Path) -> None:
    async with played(album, prompts=Prompts((Prompt("cup", BOX),))) as run:
        assert list(objects(await run.shown())) == ["cup"]
        run.player.step(1)
        assert list(objects(await run.shown(lambda shown: shown.frame.name == "b"))) == ["cup"]


async def test_a_film_is_asked_anew_where_it_was_pointed_at(film: Path) -> None:
    """Back on the frame of a point, the mask is that of the point, whatever following made of it."""
    async with played(film) as run:
        await run.shown()
        run.player.seek(0.12)
        shown = await run.shown(lambda shown: shown.number == 1)
        name = await run.live.prompt(PromptRequest(1, None, (), (60.0, 30.0, 200.0, 120.0)))
        found = mask_of(await run.shown(lambda shown: shown.objects), name)
        run.player.play(True)
        await run.shown(lambda shown: shown.number > 10)
        run.player.play(False)
        run.player.seek(0.12)
        back = await run.shown(
            lambda again: (
                again.number > shown.number and abs(again.frame.time_s - 0.12) < 0.01 and run.player.standing
            )
        )
        assert iou(mask_of(back, name), found) == 1.0


async def test_nothing_of_a_file_leaves_before_something_is_asked(
    album: Path, mini_bundle: Bundle, tmp_path: Path
) -> None:
    """With sites a picture is not computed for the mouse over it, nor for a viewer who steps to it."""
    async with (
        counted_sites(mini_bundle, tmp_path) as sites,
        played(album, mini_bundle, sites=sites.file) as run,
    ):
        await run.shown()
        assert await run.live.would_find(PromptRequest(0, None, (CUP,))) is None
        run.player.step(1)
        await run.shown(lambda shown: shown.frame.name == "b")
        assert run.computed() == 0
        await run.point(1, (240.0, 180.0, 1))
        await run.shown(lambda shown: shown.objects)
        sent = run.computed()
        assert sent > 0
        assert await run.live.would_find(PromptRequest(1, None, ((200.0, 180.0, 1),))) is not None
        run.player.step(-1)
        assert (await run.shown(lambda shown: shown.frame.name == "a")).objects == ()
        assert run.computed() == sent


async def test_a_held_frame_of_a_camera_shows_what_each_point_changes_while_frames_go_on() -> None:
    bundle = Bundle.load(shipped_bundle())
    async with live_run(bundle, None) as run:
        await run.frame()
        held_result = await run.frame()
        with run.live.holding(held_result) as held:
            await later(held, 1)
            for _ in range(20):  # more than are kept for late clicks
                await run.frame()
            number = held_result.number
            name = await run.live.prompt(PromptRequest(number, None, (CUP,)))
            one = await until(held, lambda shown: shown.objects)
            assert one.number == number
            await run.live.prompt(PromptRequest(number, name, (TABLE,)))
            two = await until(held, lambda shown: iou(mask_of(shown, name), mask_of(one, name)) < 1)
            assert np.array_equal(two.frame.pixels, held_result.frame.pixels)
        newest = await run.frames_until(lambda shown: name in objects(shown))
        assert newest.number > number  # it is followed from there


async def test_a_frame_that_is_let_go_while_sending_is_paused_never_leaves(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    async with (
        counted_sites(mini_bundle, tmp_path) as sites,
        live_run(mini_bundle, sites.file) as run,
    ):
        await run.frame()
        run.live.pause(True)
        await run.live.prompt(PromptRequest(0, None, (CUP,)))  # something is to be found
        shown = await run.frame()
        with run.live.holding(shown), run.live.holding(shown):
            pass
        run.live.remove("1")
        before = run.live.status().windows_sent
        run.live.pause(False)
        for _ in range(3):
            await run.frame()
        assert run.live.status().windows_sent == before == 0


async def test_a_frame_that_was_lost_cannot_be_held(photograph: Path) -> None:
    async with played(photograph) as run:
        shown = await run.shown()
        lost = FrameResult(shown.frame, ())
        with pytest.raises(InputError, match="cannot be held"), run.live.holding(lost):
            pass


async def later(frames: Newest[FrameResult], version: int) -> FrameResult:
    with anyio.fail_after(PATIENCE_S):
        return (await frames.after(version - 1))[1]


async def until(frames: Newest[FrameResult], condition: Any) -> FrameResult:
    version = 0
    with anyio.fail_after(PATIENCE_S):
        while True:
            version, shown = await frames.after(version)
            if condition(shown):
                return shown


async def test_prompts_of_a_file_are_for_the_frame_that_was_pointed_at(film: Path, tmp_path: Path) -> None:
    """Whatever number it was shown under: a run that goes through the file once asks on that frame."""
    async with played(film) as run:
        await run.shown()
        run.player.seek(3 / 25)
        there = await run.shown(lambda shown: shown.frame.time_s > 0.1)
        await run.live.prompt(PromptRequest(there.number, points=((100.0, 70.0, 1),), new_name="ball"))
        (prompt,) = run.live.prompts().entries
        assert (prompt.name, prompt.from_frame, prompt.points) == ("ball", 3, ((100.0, 70.0, 1),))


async def test_a_mask_on_a_photo_is_as_sure_as_its_rating_and_can_be_confirmed(photograph: Path) -> None:
    async with played(photograph) as run:
        first = await run.shown()
        name = await run.live.prompt(PromptRequest(first.number, box_xyxy=BOX))
        shown = await run.shown(lambda shown: shown.objects)
        (found,) = shown.objects
        assert found.trust.confidence == pytest.approx(min(found.iou, 1.0))
        await run.live.confirm(name, shown.number)
        (confirmed,) = (await run.shown()).objects
        assert confirmed.trust == Trust(found.trust.confidence)
        with pytest.raises(InputError, match="there is no object fork"):
            await run.live.confirm("fork", shown.number)
