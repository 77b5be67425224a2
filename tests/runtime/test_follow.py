"""Objects from frame to frame: late clicks, refining, carrying, and what is lost stays lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from runtime.canvas import Canvas, make_canvas
from runtime.decode import ObjectMask, decode
from runtime.follow import Followed, Follower, Kept, box_of
from runtime.live import Request
from runtime.objects import Entry, Objects
from runtime.prompts import Prompt, Prompts
from runtime.tracking import Still, TrackState
from stages.bundle import Bundle
from stages.engine import EngineThread
from stages.errors import InputError
from stages.tensors import Array
from tests.cameras import scenery
from tests.edge import edge_engines

pytestmark = pytest.mark.anyio

CLICK = ((300.0, 180.0, 1),)


@dataclass
class Diary:
    """What the tracks of a test were asked, and what they are to answer."""

    asked: list[tuple[str, int]] = field(default_factory=list)  # object, frame
    lost: set[int] = field(default_factory=set)  # frames on which everything is lost
    frames: dict[int, int] = field(default_factory=dict)  # id of a canvas -> number

    def make(self, prompt: Prompt) -> Still:
        return NotedTrack(prompt, self)


class NotedTrack(Still):
    """A Still that writes down on which frames it was asked, and chooses mask number 2."""

    def __init__(self, prompt: Prompt, diary: Diary) -> None:
        super().__init__(prompt)
        self.diary = diary

    def question(self, canvas: Canvas, image_embedding: Array) -> Prompt | None:
        number = self.diary.frames[id(canvas)]
        self.diary.asked.append((self.name, number))
        return None if number in self.diary.lost else self.start

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        return 2


@dataclass
class Scene:
    """A follower over the mini model's decoder; frame n has an image embedding of its own."""

    follower: Follower
    diary: Diary
    engines: EngineThread
    bundle: Bundle

    def kept(self, number: int, computed: bool = True) -> Kept:
        kept = Kept(number, make_canvas(scenery(number), self.bundle.geometry))
        kept.image_embedding = self.embedding(number) if computed else None
        self.diary.frames[id(kept.canvas)] = number
        return kept

    def embedding(self, number: int) -> Array:
        shape = (1, self.bundle.geometry.prompt_dim, self.bundle.geometry.tokens, self.bundle.geometry.tokens)
        return np.random.default_rng(number).standard_normal(shape, np.float32)

    async def compute(self, number: int) -> dict[str, Followed]:
        return {each.name: each for each in await self.follower.compute(self.kept(number))}

    def entry(self, name: str) -> Entry:
        return self.follower.objects.named(name)


@asynccontextmanager
async def scene(bundle: Bundle, *prompts: Prompt, recent: int = 4) -> AsyncIterator[Scene]:
    diary = Diary()
    async with edge_engines(bundle, ["decoder"]) as engines:
        follower = Follower(engines, Objects(Prompts(prompts), diary.make), recent)
        yield Scene(follower, diary, engines, bundle)


async def test_a_late_click_is_found_on_its_frame_and_followed_to_the_newest(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("old", (0, 0, 90, 90))) as it:
        for number in range(4):
            await it.compute(number)
        it.diary.asked.clear()
        name = await it.follower.ask(Request(1, points=CLICK))
        assert it.diary.asked == [(name, 1), (name, 2), (name, 3)]
        newest = it.kept(3)
        asked = Prompt(name, None, CLICK)
        (found,) = await decode(
            it.engines, it.embedding(3), newest.canvas, [asked], {name: lambda masks, iou: 2}
        )
        entry = it.entry(name)
        assert entry.found is not None
        assert np.array_equal(entry.found.logits, found.logits)
        assert set(await it.compute(4)) == {"old", name}


async def test_a_click_on_a_frame_that_is_gone_takes_the_oldest_that_is_kept(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("old", (0, 0, 90, 90)), recent=2) as it:
        for number in range(5):
            await it.compute(number)
        it.diary.asked.clear()
        name = await it.follower.ask(Request(0, points=CLICK))
        assert it.diary.asked == [(name, 3), (name, 4)]


async def test_a_click_on_a_frame_to_come_starts_with_the_next(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        name = await it.follower.ask(Request(7, points=CLICK))
        assert it.diary.asked == []
        assert it.follower.must_compute(0)
        assert set(await it.compute(0)) == {name}
        assert not it.follower.must_compute(1)


async def test_a_click_on_a_frame_that_was_not_computed_waits_for_it(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        frames = [it.kept(number, computed=False) for number in range(3)]
        for kept in frames:
            it.follower.keep(kept)
        assert not it.follower.wanted(3)
        name = await it.follower.ask(Request(1, points=CLICK))
        other = await it.follower.ask(Request(1, box_xyxy=(10, 10, 99, 99)))
        assert it.follower.wanted(3)
        assert it.follower.next_waiting() is frames[1]
        assert it.follower.next_waiting() is None  # both wait for the same frame
        it.follower.put_back(frames[1])
        assert it.follower.next_waiting() is frames[1]
        frames[1].image_embedding = it.embedding(1)
        await it.follower.compute_waiting(frames[1])
        assert it.diary.asked == [(name, 1), (other, 1)]
        assert set(await it.compute(3)) == {name, other}


async def test_when_that_frame_is_lost_the_object_starts_with_the_next(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        kept = it.kept(0, computed=False)
        it.follower.keep(kept)
        name = await it.follower.ask(Request(0, points=CLICK))
        assert it.follower.next_waiting() is kept
        await it.follower.compute_waiting(kept)
        assert it.diary.asked == []
        assert it.follower.must_compute(1)
        assert set(await it.compute(1)) == {name}


async def test_an_object_that_waits_can_be_refined_and_removed(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        kept = it.kept(0, computed=False)
        it.follower.keep(kept)
        name = await it.follower.ask(Request(0, points=CLICK))
        assert await it.follower.ask(Request(0, name, points=((9, 9, 0),), box_xyxy=(1, 1, 99, 99))) == name
        kept.image_embedding = it.embedding(0)
        await it.follower.compute_waiting(kept)
        assert it.entry(name).given == Prompt(name, (1, 1, 99, 99), (*CLICK, (9, 9, 0)), 0)
        later = it.kept(1, computed=False)
        it.follower.keep(later)
        other = await it.follower.ask(Request(1, points=CLICK))
        it.follower.remove(other)
        assert it.follower.next_waiting() is None
        with pytest.raises(InputError, match=f"there is no object {other}"):
            it.follower.remove(other)


async def test_not_all_clicks_can_wait(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        it.follower.keep(it.kept(0, computed=False))
        for _ in range(16):
            await it.follower.ask(Request(0, points=CLICK))
        with pytest.raises(InputError, match="too many objects wait"):
            await it.follower.ask(Request(0, points=CLICK))


async def test_refining_adds_points_on_the_same_frame(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", None, CLICK)) as it:
        await it.compute(0)
        await it.follower.ask(Request(0, "a", points=((9, 9, 0),)))
        assert it.entry("a").given == Prompt("a", None, (*CLICK, (9, 9, 0)), 0)


async def test_refining_on_a_later_frame_starts_from_where_the_object_is(mini_bundle: Bundle) -> None:
    """Old points would point where the object was."""
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        for number in range(3):
            await it.compute(number)
        it.follower.objects.rename("a", "cup")
        there = it.follower._recent[1].boxes["a"]
        assert await it.follower.ask(Request(1, "cup", points=((9, 9, 0),))) == "cup"
        assert it.entry("cup").given == Prompt("a", there, ((9, 9, 0),), 1)
        box = (1.0, 1.0, 99.0, 99.0)
        await it.follower.ask(Request(2, "cup", box_xyxy=box))
        assert it.entry("cup").given == Prompt("a", box, (), 2)


async def test_a_lost_object_has_no_mask_and_keeps_its_last_place(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        await it.compute(0)
        place = it.entry("a").box
        assert place is not None
        it.diary.lost = {1, 2}
        found = (await it.compute(1))["a"]
        assert (found.state, found.found) == (TrackState.LOST, None)
        (carried,) = await it.follower.carry(it.kept(2, computed=False))
        assert (carried.state, carried.found) == (TrackState.LOST, None)
        assert it.entry("a").box == place
        assert it.follower.objects.last_seen().entries == (Prompt("a", place),)


async def test_a_mask_is_carried_with_the_picture(mini_bundle: Bundle) -> None:
    """The picture moves 3 pixels to the right a frame, and the mask with it."""
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        await it.compute(0)
        entry = it.entry("a")
        assert entry.found is not None
        blob = np.full_like(entry.found.logits, -5)
        blob[20:40, 30:50] = 5
        entry.found = ObjectMask(entry.found.prompt, blob, 0.9)
        for number in range(1, 9):
            (carried,) = await it.follower.carry(it.kept(number, computed=False))
        assert carried.state is TrackState.CARRIED
        assert carried.found is not None
        _, columns = np.nonzero(carried.found.logits > 0)
        cells = 8 * 3 * (384 / 640) / 4  # of the low-resolution mask
        assert columns.mean() == pytest.approx(39.5 + cells, abs=0.7)
        assert it.diary.asked == [("a", 0)]


async def test_what_must_be_computed_depends_on_the_plan_alone_where_no_viewer_steps_in(
    mini_bundle: Bundle,
) -> None:
    box = (150.0, 60.0, 450.0, 300.0)
    async with scene(mini_bundle, Prompt("a", box), Prompt("b", box, from_frame=2)) as it:
        before = [it.follower.must_compute(number) for number in range(4)]
        await it.compute(0)
        assert before == [it.follower.must_compute(number) for number in range(4)]
        assert before == [True, False, True, False]
        await it.follower.ask(Request(0, points=CLICK))
        assert it.follower.must_compute(1)
        await it.compute(1)
        assert not it.follower.must_compute(3)


async def test_prompts_start_and_change_at_their_frame(mini_bundle: Bundle) -> None:
    box, other = (150.0, 60.0, 450.0, 300.0), (10.0, 10.0, 90.0, 90.0)
    async with scene(mini_bundle, Prompt("a", box, from_frame=2), Prompt("a", other, from_frame=3)) as it:
        assert not it.follower.wanted(1)
        assert it.follower.wanted(2)
        assert it.follower.must_compute(2)
        assert await it.compute(1) == {}
        assert set(await it.compute(2)) == {"a"}
        first = it.entry("a")
        assert first.given.box_xyxy == box
        await it.compute(3)
        assert it.entry("a") is first
        assert first.given.box_xyxy == other


@pytest.mark.parametrize("size", [(640, 360), (270, 480)])
def test_the_box_of_a_mask_is_in_frame_pixels(mini_bundle: Bundle, size: tuple[int, int]) -> None:
    width, height = size
    canvas = make_canvas(np.zeros((height, width, 3), np.uint8), mini_bundle.geometry)
    logits = np.full((96, 96), -1.0, np.float32)
    assert box_of(logits, canvas) is None
    logits[10:20, 30:41] = 1
    mask = canvas.to_frame_mask(logits)
    box = box_of(logits, canvas)
    assert box is not None
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert box == pytest.approx((cols[0], rows[0], cols[-1] + 1, rows[-1] + 1), abs=8)
    logits[:] = 1  # the padding does not count
    assert box_of(logits, canvas) == pytest.approx((0, 0, width, height))
