"""Objects from frame to frame: late clicks, refining, carrying, and what is lost stays lost."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.follower import FollowedObject, Follower, RecentFrame, box_of
from runtime.objects.matching import FrameTokens, MemoryFrame
from runtime.objects.prompts import Prompt, PromptRequest, Prompts
from runtime.objects.registry import ObjectRegistry, TrackedObject
from runtime.objects.tracking import FixedPrompt, Track, TrackState
from runtime.objects.trust import Check, Trust
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.errors import InputError
from stages.tensors import Array
from tests.support.cameras import scenery
from tests.support.edge import edge_engines

pytestmark = pytest.mark.anyio

CLICK = ((300.0, 180.0, 1),)


@dataclass
class Diary:
    """What the tracks of a test were asked, and what they are to answer."""

    asked: list[tuple[str, int]] = field(default_factory=list)  # object, frame
    lost: set[int] = field(default_factory=set)  # frames on which everything is lost
    frames: dict[int, int] = field(default_factory=dict)  # id of a canvas -> number
    anchored: list[str] = field(default_factory=list)  # objects whose mask was confirmed

    def make(self, prompt: Prompt) -> FixedPrompt:
        return NotedTrack(prompt, self)


class NotedTrack(FixedPrompt):
    """A FixedPrompt that writes down on which frames it was asked, and chooses mask number 2."""

    def __init__(self, prompt: Prompt, diary: Diary) -> None:
        super().__init__(prompt)
        self.diary = diary

    def next_prompt(self, canvas: Canvas, tokens: FrameTokens) -> Prompt | None:
        number = self.diary.frames[id(canvas)]
        self.diary.asked.append((self.name, number))
        return None if number in self.diary.lost else self.start

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        return 2

    def anchor(self, memory: MemoryFrame | None) -> None:
        self.diary.anchored.append(self.name)
        super().anchor(memory)


@dataclass
class Scene:
    """A follower over the mini model's decoder; frame n has an image embedding of its own."""

    follower: Follower
    diary: Diary
    engines: EngineThread
    bundle: Bundle

    def recent(self, number: int, computed: bool = True) -> RecentFrame:
        frame = RecentFrame(number, make_canvas(scenery(number), self.bundle.geometry))
        frame.image_embedding = self.embedding(number) if computed else None
        self.diary.frames[id(frame.canvas)] = number
        return frame

    def embedding(self, number: int) -> Array:
        shape = (1, self.bundle.geometry.prompt_dim, self.bundle.geometry.tokens, self.bundle.geometry.tokens)
        return np.random.default_rng(number).standard_normal(shape, np.float32)

    async def compute(self, number: int) -> dict[str, FollowedObject]:
        return {each.name: each for each in await self.follower.compute(self.recent(number))}

    def entry(self, name: str) -> TrackedObject:
        return self.follower.objects.named(name)


@asynccontextmanager
async def scene(bundle: Bundle, *prompts: Prompt, recent: int = 4) -> AsyncIterator[Scene]:
    diary = Diary()
    async with edge_engines(bundle, ["decoder"]) as engines:
        follower = Follower(engines, ObjectRegistry(Prompts(prompts), diary.make), recent)
        yield Scene(follower, diary, engines, bundle)


async def test_a_late_click_is_found_on_its_frame_and_followed_to_the_newest(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("old", (0, 0, 90, 90))) as it:
        for number in range(4):
            await it.compute(number)
        it.diary.asked.clear()
        name = await it.follower.prompt(PromptRequest(1, points=CLICK))
        assert it.diary.asked == [(name, 1), (name, 2), (name, 3)]
        newest = it.recent(3)
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
        name = await it.follower.prompt(PromptRequest(0, points=CLICK))
        assert it.diary.asked == [(name, 3), (name, 4)]


async def test_a_click_on_a_frame_to_come_starts_with_the_next(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        name = await it.follower.prompt(PromptRequest(7, points=CLICK))
        assert it.diary.asked == []
        assert it.follower.needs_keyframe(0)
        assert set(await it.compute(0)) == {name}
        assert not it.follower.needs_keyframe(1)


async def test_a_click_on_a_frame_that_was_not_computed_waits_for_it(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        frames = [it.recent(number, computed=False) for number in range(3)]
        for frame in frames:
            it.follower.keep(frame)
        assert not it.follower.has_objects(3)
        name = await it.follower.prompt(PromptRequest(1, points=CLICK))
        other = await it.follower.prompt(PromptRequest(1, box_xyxy=(10, 10, 99, 99)))
        assert it.follower.has_objects(3)
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
        frame = it.recent(0, computed=False)
        it.follower.keep(frame)
        name = await it.follower.prompt(PromptRequest(0, points=CLICK))
        assert it.follower.next_waiting() is frame
        await it.follower.compute_waiting(frame)
        assert it.diary.asked == []
        assert it.follower.needs_keyframe(1)
        assert set(await it.compute(1)) == {name}


async def test_an_object_that_waits_can_be_refined_and_removed(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        frame = it.recent(0, computed=False)
        it.follower.keep(frame)
        name = await it.follower.prompt(PromptRequest(0, points=CLICK))
        assert (
            await it.follower.prompt(PromptRequest(0, name, points=((9, 9, 0),), box_xyxy=(1, 1, 99, 99)))
            == name
        )
        frame.image_embedding = it.embedding(0)
        await it.follower.compute_waiting(frame)
        assert it.entry(name).prompt == Prompt(name, (1, 1, 99, 99), (*CLICK, (9, 9, 0)), 0)
        later = it.recent(1, computed=False)
        it.follower.keep(later)
        other = await it.follower.prompt(PromptRequest(1, points=CLICK))
        it.follower.remove(other)
        assert it.follower.next_waiting() is None
        with pytest.raises(InputError, match=f"there is no object {other}"):
            it.follower.remove(other)


async def test_a_name_promised_to_an_object_that_waits_is_taken(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", (0, 0, 90, 90))) as it:
        await it.compute(0)
        frame = it.recent(1, computed=False)
        it.follower.keep(frame)
        name = await it.follower.prompt(PromptRequest(1, points=CLICK))
        with pytest.raises(InputError, match=f"another object is named {name}"):
            it.follower.objects.rename("a", name)
        frame.image_embedding = it.embedding(1)
        await it.follower.compute_waiting(frame)
        assert set(await it.compute(2)) == {"a", name}
        it.follower.keep(it.recent(3, computed=False))
        other = await it.follower.prompt(PromptRequest(3, points=CLICK))
        it.follower.remove(other)
        it.follower.objects.rename("a", other)  # nobody waits for it any more


async def test_an_object_that_is_removed_while_its_change_waits_stays_removed(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", (0, 0, 90, 90))) as it:
        await it.compute(0)
        frame = it.recent(1, computed=False)
        it.follower.keep(frame)
        await it.follower.prompt(PromptRequest(1, "a", points=CLICK))
        it.follower.remove("a")
        assert it.follower.next_waiting() is None
        frame.image_embedding = it.embedding(1)
        await it.follower.compute_waiting(frame)
        assert await it.compute(2) == {}


async def test_not_all_clicks_can_wait(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        it.follower.keep(it.recent(0, computed=False))
        for _ in range(16):
            await it.follower.prompt(PromptRequest(0, points=CLICK))
        with pytest.raises(InputError, match="too many objects wait"):
            await it.follower.prompt(PromptRequest(0, points=CLICK))


async def test_refining_adds_points_on_the_same_frame(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", None, CLICK)) as it:
        await it.compute(0)
        await it.follower.prompt(PromptRequest(0, "a", points=((9, 9, 0),)))
        assert it.entry("a").prompt == Prompt("a", None, (*CLICK, (9, 9, 0)), 0)


async def test_a_new_object_of_background_points_is_refused(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", None, CLICK)) as it:
        await it.compute(0)
        request = PromptRequest(0, points=((9, 9, 0),))
        for ask in (it.follower.prompt, it.follower.would_find):
            with pytest.raises(InputError, match="has only background points"):
                await ask(request)
        assert [entry.name for entry in it.follower.objects.entries] == ["a"]


async def test_refining_on_a_later_frame_starts_from_where_the_object_is(mini_bundle: Bundle) -> None:
    """Old points would point where the object was."""
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        for number in range(3):
            await it.compute(number)
        it.follower.objects.rename("a", "cup")
        there = it.follower._recent[1].boxes["a"]
        assert await it.follower.prompt(PromptRequest(1, "cup", points=((9, 9, 0),))) == "cup"
        assert it.entry("cup").prompt == Prompt("a", there, ((9, 9, 0),), 1)
        box = (1.0, 1.0, 99.0, 99.0)
        await it.follower.prompt(PromptRequest(2, "cup", box_xyxy=box))
        assert it.entry("cup").prompt == Prompt("a", box, (), 2)


async def test_a_lost_object_has_no_mask_and_keeps_its_last_place(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        await it.compute(0)
        place = it.entry("a").box
        assert place is not None
        it.diary.lost = {1, 2}
        found = (await it.compute(1))["a"]
        assert (found.state, found.found) == (TrackState.LOST, None)
        (carried,) = await it.follower.carry(it.recent(2, computed=False))
        assert (carried.state, carried.found) == (TrackState.LOST, None)
        assert it.entry("a").box == place
        (kept,) = it.follower.objects.last_seen().entries
        assert (kept.name, kept.box_xyxy, kept.asked) == ("a", place, it.entry("a").prompt)


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
            (carried,) = await it.follower.carry(it.recent(number, computed=False))
        assert carried.state is TrackState.CARRIED
        assert carried.found is not None
        _, columns = np.nonzero(carried.found.logits > 0)
        cells = 8 * 3 * (384 / 640) / 4  # of the low-resolution mask
        assert columns.mean() == pytest.approx(39.5 + cells, abs=0.7)
        assert it.diary.asked == [("a", 0)]


async def test_a_mask_that_is_carried_out_of_the_frame_is_lost(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        await it.compute(0)
        entry = it.entry("a")
        assert entry.found is not None
        padding = np.full_like(entry.found.logits, -5)
        padding[70:90, 30:50] = 5  # a frame of 640 x 360 has 54 rows of the mask
        entry.found = ObjectMask(entry.found.prompt, padding, 0.9)
        place = entry.box
        (carried,) = await it.follower.carry(it.recent(0, computed=False))
        assert (carried.state, carried.found) == (TrackState.LOST, None)
        assert it.entry("a").found is None
        assert entry.box == place


async def test_masks_are_carried_off_the_event_loop(
    mini_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_on = []

    def shows(canvas: Canvas, logits: Array) -> bool:
        asked_on.append(threading.get_ident())
        return True

    async with scene(mini_bundle, Prompt("a", (150, 60, 450, 300))) as it:
        await it.compute(0)
        monkeypatch.setattr(Canvas, "shows", shows)
        await it.follower.carry(it.recent(1, computed=False))
    assert len(asked_on) == 1
    assert asked_on[0] != threading.get_ident()


async def test_what_must_be_computed_depends_on_the_plan_alone_where_no_viewer_steps_in(
    mini_bundle: Bundle,
) -> None:
    box = (150.0, 60.0, 450.0, 300.0)
    async with scene(mini_bundle, Prompt("a", box), Prompt("b", box, from_frame=2)) as it:
        before = [it.follower.needs_keyframe(number) for number in range(4)]
        await it.compute(0)
        assert before == [it.follower.needs_keyframe(number) for number in range(4)]
        assert before == [True, False, True, False]
        await it.follower.prompt(PromptRequest(0, points=CLICK))
        assert it.follower.needs_keyframe(1)
        await it.compute(1)
        assert not it.follower.needs_keyframe(3)


async def test_prompts_start_and_change_at_their_frame(mini_bundle: Bundle) -> None:
    box, other = (150.0, 60.0, 450.0, 300.0), (10.0, 10.0, 90.0, 90.0)
    async with scene(mini_bundle, Prompt("a", box, from_frame=2), Prompt("a", other, from_frame=3)) as it:
        assert not it.follower.has_objects(1)
        assert it.follower.has_objects(2)
        assert it.follower.needs_keyframe(2)
        assert await it.compute(1) == {}
        assert set(await it.compute(2)) == {"a"}
        first = it.entry("a")
        assert first.prompt.box_xyxy == box
        await it.compute(3)
        assert it.entry("a") is first
        assert first.prompt.box_xyxy == other


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


async def test_a_mask_that_is_confirmed_is_where_its_object_is_followed_from(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("cup", (0, 0, 90, 90)), recent=3) as it:
        for number in range(4):
            await it.compute(number)
        it.diary.asked.clear()
        await it.follower.confirm("cup", 2)
        assert it.diary.anchored == ["cup"]
        assert it.diary.asked == [("cup", 3)]  # found again on the frames since
        with pytest.raises(
            InputError, match="object cup was not found on frame 0, or that is no longer kept"
        ):
            await it.follower.confirm("cup", 0)
        with pytest.raises(InputError, match="there is no object dog"):
            await it.follower.confirm("dog", 2)


async def test_of_carried_frames_the_computed_one_before_is_confirmed(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("cup", (0, 0, 90, 90))) as it:
        await it.compute(0)
        (carried,) = await it.follower.carry(it.recent(1, computed=False))
        assert carried.trust == it.entry("cup").track.trust
        await it.follower.confirm("cup", 1)
        assert it.diary.anchored == ["cup"]


async def test_a_mask_of_an_earlier_prompt_cannot_be_confirmed(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("cup", (0, 0, 90, 90))) as it:
        for number in range(3):
            await it.compute(number)
        await it.follower.prompt(PromptRequest(2, "cup", CLICK))
        with pytest.raises(InputError, match="was not found on frame 1"):
            await it.follower.confirm("cup", 1)
        await it.follower.confirm("cup", 2)


async def test_an_object_that_waits_for_its_frame_has_nothing_to_confirm(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle) as it:
        it.follower.keep(it.recent(0, computed=False))
        name = await it.follower.prompt(PromptRequest(0, points=CLICK, new_name="cup"))
        assert name == "cup"
        (asked,) = it.follower.as_asked(lambda prompt, place_s: 9).entries
        assert (asked.name, asked.from_frame) == ("cup", 9)
        with pytest.raises(InputError, match="object cup was not found on any frame yet"):
            await it.follower.confirm("cup", 0)
        with pytest.raises(InputError, match="another object is named cup"):
            await it.follower.prompt(PromptRequest(0, points=CLICK, new_name="cup"))


async def test_a_followed_object_is_confirmed_with_what_was_seen_on_that_frame(mini_bundle: Bundle) -> None:
    async with edge_engines(mini_bundle, ["decoder"]) as engines:
        made: list[AnchoredTrack] = []

        def make(prompt: Prompt) -> Track:
            made.append(AnchoredTrack(prompt))
            return made[-1]

        follower = Follower(engines, ObjectRegistry(Prompts((Prompt("cup", (0, 0, 300, 300)),)), make))
        shape = (1, mini_bundle.geometry.prompt_dim, mini_bundle.geometry.tokens, mini_bundle.geometry.tokens)
        embedding = np.random.default_rng(0).standard_normal(shape, np.float32)
        for number in range(2):
            frame = RecentFrame(number, make_canvas(scenery(0), mini_bundle.geometry), embedding)
            assert (await follower.compute(frame))[0].found is not None
        await follower.confirm("cup", 0)
        (memory,) = made[0].memories
        assert memory is not None
        assert memory.labels.shape == memory.features.shape[:2]
        assert memory.labels.any()


async def test_on_a_frame_that_is_held_a_mark_is_gone_at_once(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, Prompt("cup", (0, 0, 90, 90)), recent=2) as it:
        first = it.recent(0)
        await it.follower.compute(first)
        it.follower.hold(first)
        for number in range(1, 4):
            await it.compute(number)  # by now only those who hold the first one keep it
        it.entry("cup").track.watch.last = Trust(0.3, Check.GREW)
        first.found["cup"] = replace(first.found["cup"], trust=Trust(0.3, Check.GREW))
        await it.follower.confirm("cup", 0)
        (shown,) = it.follower.on(first)
        assert shown.trust == Trust(0.3)


class AnchoredTrack(Track):
    """Notes what it was anchored at."""

    def __init__(self, start: Prompt) -> None:
        super().__init__(start)
        self.memories: list[MemoryFrame | None] = []

    def anchor(self, memory: MemoryFrame | None) -> None:
        self.memories.append(memory)
        super().anchor(memory)
