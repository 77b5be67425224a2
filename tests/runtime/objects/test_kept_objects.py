"""Windows that objects touch: of masks on the frame before and where they have moved to, with a margin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import ObjectMask
from runtime.objects.kept_objects import MARGIN, KeptObjects
from runtime.objects.prompts import Prompt, PromptRequest
from stages.bundle import Bundle
from stages.geometry import Geometry
from tests.runtime.objects.test_follower import CLICK, Scene, scene
from tests.support.cameras import scenery

pytestmark = pytest.mark.anyio

BOX = Prompt("cup", (10, 10, 60, 60))
POINT = Prompt("dot", None, ((30.0, 30.0, 1),))


def on(kept: KeptObjects, canvas: Canvas, number: int) -> set[int] | None:
    """The windows for this frame, None while they are not known."""
    found = kept.on(canvas, number)()
    return None if found is None else set(found)


def logits_of(geometry: Geometry, left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.float32]:
    """A mask of these pixels of the canvas, at the decoder's resolution."""
    side = 4 * geometry.tokens
    scale = side / geometry.image_size
    logits = np.full((side, side), -5, np.float32)
    logits[round(top * scale) : round(bottom * scale), round(left * scale) : round(right * scale)] = 5
    return logits


async def with_mask(
    it: Scene, canvas: Canvas, place: tuple[int, int, int, int] = (10, 10, 60, 60)
) -> KeptObjects:
    """Objects of a follower whose newest masks are on `canvas`, that of "cup" in this place of it."""
    frame = it.recent(0)
    await it.follower.compute(replace(frame, canvas=canvas))
    entry = it.entry("cup")
    entry.found = ObjectMask(entry.prompt, logits_of(it.bundle.geometry, *place), 1.0)
    entry.box = (0.0, 0.0, 9.0, 9.0)
    return KeptObjects(it.follower)


def canvas_of_noise(it: Scene, shift: int = 0) -> Canvas:
    """Something with a texture, moved to the right."""
    noise = np.random.default_rng(5).integers(0, 255, (45, 80, 3), np.uint8)
    large = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    canvas = make_canvas(np.roll(large, shift, axis=1), it.bundle.geometry)
    it.diary.frames[id(canvas)] = 0
    return canvas


async def test_until_there_is_a_mask_everything_stays(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, BOX, replace(POINT, from_frame=5)) as it:
        kept, canvas = KeptObjects(it.follower), it.recent(0).canvas
        assert on(kept, canvas, 0) is None
        kept = await with_mask(it, canvas_of_noise(it))
        assert on(kept, canvas_of_noise(it), 4) == {0}
        assert on(kept, canvas, 5) is None  # the point is asked for here
        assert on(kept, canvas, 6) is None


async def test_an_object_that_is_asked_for_again_keeps_everything_until_it_is_found(
    mini_bundle: Bundle,
) -> None:
    async with scene(mini_bundle, BOX) as it:
        kept, canvas = await with_mask(it, canvas_of_noise(it)), canvas_of_noise(it)
        entry = it.entry("cup")
        it.follower.objects.start(entry, POINT)
        assert on(kept, canvas, 1) is None


async def test_a_click_on_a_frame_that_was_not_computed_keeps_everything(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, BOX) as it:
        kept = await with_mask(it, canvas_of_noise(it))
        it.follower.keep(it.recent(3, computed=False))
        assert on(kept, canvas_of_noise(it), 4) == {0}
        await it.follower.prompt(PromptRequest(3, points=CLICK))
        canvas = canvas_of_noise(it)
        assert on(kept, canvas, 4) is None


async def test_there_is_a_margin_around_a_mask(mini_bundle: Bundle) -> None:
    side = mini_bundle.geometry.tile_px
    margin = int(MARGIN * side)
    async with scene(mini_bundle, BOX) as it:
        for right, windows in ((side - margin - 5, {0}), (side - margin + 5, {0, 1})):
            kept = await with_mask(it, canvas_of_noise(it), (10, 10, right, 60))
            assert on(kept, canvas_of_noise(it), 1) == windows, right


async def test_what_moves_is_kept_where_it_was_and_where_it_is(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, BOX) as it:
        kept = await with_mask(it, canvas_of_noise(it), (20, 20, 55, 60))
        moved = 40  # pixels of the frame, 24 of the canvas
        assert on(kept, canvas_of_noise(it), 1) == {0}
        assert on(kept, canvas_of_noise(it, moved), 1) == {0, 1}


async def test_what_is_lost_is_kept_where_it_was_seen_last(mini_bundle: Bundle) -> None:
    side = mini_bundle.geometry.tile_px
    async with scene(mini_bundle, BOX) as it:
        kept = await with_mask(it, canvas_of_noise(it))
        entry, canvas = it.entry("cup"), canvas_of_noise(it)
        scale = canvas.width / canvas.cols
        entry.found, entry.box = None, ((side + 30) * scale, 30 * scale, (side + 40) * scale, 40 * scale)
        assert on(kept, canvas, 1) == {1}


async def test_without_objects_nothing_is_kept(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, BOX) as it:
        kept = await with_mask(it, canvas_of_noise(it))
        it.follower.remove("cup")
        assert on(kept, make_canvas(scenery(1), mini_bundle.geometry), 1) == set()
