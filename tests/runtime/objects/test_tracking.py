"""Objects followed through video: labels that move with what they mark, loss, and being found again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from runtime.demo.demo import FRAME, SCENES, DemoScene, photo
from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.masks import iou
from runtime.objects.matching import FrameTokens, MemoryFrame
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import FixedPrompt, Track
from runtime.objects.trust import Check, Trust
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.tensors import Array

pytestmark = pytest.mark.anyio

MINI = GEOMETRIES["mini"]
BOX = Prompt("object", (10.0, 20.0, 200.0, 300.0))
BLANK = make_canvas(np.zeros((384, 384, 3), np.uint8), MINI)


def picture_of_tokens(seed: int = 0, side: int = 24) -> Array:
    """An image embedding [1, 256, side, side] in which every token is like its neighbours, and no others."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 256)).astype(np.float32)
    blurred = np.dstack([cv2.GaussianBlur(channel, (0, 0), 1.2) for channel in noise.transpose(2, 0, 1)])
    return np.ascontiguousarray(blurred.transpose(2, 0, 1)[None])


def square(row: int, col: int, side: int = 96, size: int = 32) -> npt.NDArray[np.float32]:
    """Logits [side, side] of a square mask with this upper left corner."""
    logits = np.full((side, side), -5, np.float32)
    logits[row : row + size, col : col + size] = 5
    return logits


def started(embedding: Array, logits: npt.NDArray[np.float32]) -> Track:
    track = Track(BOX)
    assert track.next_prompt(BLANK, FrameTokens(embedding)) is BOX
    assert track.update(BLANK, ObjectMask(BOX, logits, 0.9)) is not None
    return track


def box_in_tokens(prompt: Prompt | None) -> list[int]:
    """A box of a frame of 384 x 384 pixels, in tokens of 16."""
    assert prompt is not None
    assert prompt.box_xyxy is not None
    return [round(value / 16) for value in prompt.box_xyxy]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-2, 3), (3, -4)])
async def test_the_box_goes_where_the_tokens_go(down: int, right: int) -> None:
    embedding = picture_of_tokens()
    track = started(embedding, square(28, 36))  # tokens 7..15 down, 9..17 across
    moved = np.roll(embedding, (down, right), (2, 3))
    asked = track.next_prompt(BLANK, FrameTokens(moved))
    assert box_in_tokens(asked) == [9 + right, 7 + down, 17 + right, 15 + down]


async def test_what_moves_beyond_reach_is_lost_and_found_again_where_it_was() -> None:
    embedding = picture_of_tokens()
    track = started(embedding, square(28, 36))
    for _ in range(3):
        assert track.next_prompt(BLANK, FrameTokens(embedding)) is not None
        assert track.update(BLANK, ObjectMask(BOX, square(28, 36), 0.9)) is not None
    assert track.next_prompt(BLANK, FrameTokens(np.roll(embedding, 11, 3))) is None
    assert track.update(BLANK, None) is None
    assert box_in_tokens(track.next_prompt(BLANK, FrameTokens(embedding))) == [9, 7, 17, 15]


async def test_the_mask_that_fits_the_labels_is_chosen_and_one_that_does_not_is_no_answer() -> None:
    embedding = picture_of_tokens()
    track = started(embedding, square(28, 36))
    track.next_prompt(BLANK, FrameTokens(embedding))
    elsewhere, there = square(60, 60), square(29, 36)
    masks = np.stack([elsewhere, elsewhere, there, elsewhere])
    assert track.choose(masks, np.array([0.9, 0.9, 0.5, 0.9], np.float32)) == 2
    assert track.choose(masks[[2, 2, 2, 2]], np.array([0.1, 0.2, 0.9, 0.3], np.float32)) == 2
    assert track.update(BLANK, ObjectMask(BOX, elsewhere, 0.9)) is None
    track.next_prompt(BLANK, FrameTokens(embedding))
    assert track.update(BLANK, ObjectMask(BOX, there, 0.5)) is not None


async def test_without_a_first_mask_the_prompt_is_asked_again() -> None:
    track = Track(BOX)
    embedding = picture_of_tokens()
    track.next_prompt(BLANK, FrameTokens(embedding))
    nothing = np.full((96, 96), -5, np.float32)
    assert track.update(BLANK, ObjectMask(BOX, nothing, 0.9)) is None
    assert track.next_prompt(BLANK, FrameTokens(embedding)) is BOX


async def test_a_large_embedding_is_matched_in_blocks() -> None:
    embedding = np.repeat(np.repeat(picture_of_tokens(side=32), 2, axis=2), 2, axis=3)
    track = started(embedding, square(64, 96, side=256, size=64))  # blocks 8..16 down, 12..20 across
    prompt = track.next_prompt(BLANK, FrameTokens(np.roll(embedding, (4, 6), (2, 3))))
    assert prompt is not None
    assert prompt.box_xyxy == pytest.approx(np.array([15, 10, 23, 18]) * 12, abs=6)


@dataclass
class Film:
    """A crop that moves over a photograph, the true box on each frame, and the model's own answer to it."""

    edge: Edge
    bundle: Bundle

    async def step(self, tracker: FixedPrompt, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_] | None:
        canvas = make_canvas(frame, self.bundle.geometry)
        return await self.follow(tracker, canvas, await self.edge.encoder.encode(canvas))

    async def follow(
        self, tracker: FixedPrompt, canvas: Canvas, embedding: Array
    ) -> npt.NDArray[np.bool_] | None:
        prompt = tracker.next_prompt(canvas, FrameTokens(embedding))
        chooser = {tracker.name: tracker.choose}
        found = await decode(self.edge.engines, embedding, canvas, [prompt], chooser) if prompt else [None]
        tracked = tracker.update(canvas, found[0])
        return canvas.to_frame_mask(tracked.logits) if tracked is not None else None


@pytest.fixture
async def film() -> AsyncIterator[Film]:
    bundle = Bundle.load(shipped_bundle())
    async with open_edge(bundle, {(FRAME[1], FRAME[0])}, EdgeOptions(threads=1), print) as edge:
        yield Film(edge, bundle)


def pan(scene: DemoScene, lefts: Sequence[int]) -> list[tuple[npt.NDArray[np.uint8], Prompt]]:
    """Frames whose crop starts at these columns of the photograph, with the box of the object on each."""
    picture, (width, height), scale = photo(scene.photo), scene.crop, FRAME[0] / scene.crop[0]
    frames = []
    for left in lefts:
        crop = Image.fromarray(picture[:height, left : left + width])
        x0, y0, x1, y1 = scene.box
        box = ((x0 - left) * scale, y0 * scale, (x1 - left) * scale, y1 * scale)
        frames.append((np.asarray(crop.resize(FRAME, Image.Resampling.BICUBIC)), Prompt("object", box)))
    return frames


async def test_the_shipped_model_follows_a_cup_loses_it_at_a_cut_and_finds_it_again(film: Film) -> None:
    cup = pan(SCENES[1], range(0, 48, 8))
    track = Track(cup[0][1])
    for frame, own_box in cup:
        mask, expected = await film.step(track, frame), await film.step(FixedPrompt(own_box), frame)
        assert mask is not None
        assert expected is not None
        assert iou(mask, expected) > 0.75
    for frame, _ in pan(SCENES[0], (0, 8)):
        assert await film.step(track, frame) is None
    assert await film.step(track, cup[-1][0]) is not None


async def test_a_mask_beside_the_frame_is_lost_and_nothing_is_remembered_of_it() -> None:
    """Of a wide frame the lower half of the canvas is padding."""
    wide = make_canvas(np.zeros((180, 384, 3), np.uint8), MINI)
    padding = ObjectMask(BOX, square(60, 20), 0.9)
    inside = ObjectMask(BOX, square(10, 20), 0.9)
    assert FixedPrompt(BOX).update(wide, padding) is None
    assert FixedPrompt(BOX).update(wide, inside) is inside
    track = Track(BOX)
    tokens = FrameTokens(picture_of_tokens())
    assert track.next_prompt(wide, tokens) is BOX
    assert track.update(wide, padding) is None
    assert track.next_prompt(wide, tokens) is BOX  # it has not begun
    assert track.update(wide, inside) is inside
    assert track.next_prompt(wide, tokens) is not BOX


async def test_a_mask_that_suddenly_grows_is_marked_and_followed_from_once_it_is_said_to_be_right() -> None:
    embedding = picture_of_tokens()
    tokens = FrameTokens(embedding)
    track = started(embedding, square(28, 36))
    for _ in range(3):
        assert track.next_prompt(BLANK, tokens) is not None
        assert track.update(BLANK, ObjectMask(BOX, square(28, 36), 0.9)) is not None
    assert track.trust.check is None
    assert track.trust.confidence == pytest.approx(0.9, abs=0.1)
    larger = ObjectMask(BOX, square(24, 32, size=48), 0.9)  # tokens 6..18 down, 8..20 across
    track.next_prompt(BLANK, tokens)
    assert track.update(BLANK, larger) is larger
    assert track.trust.check is Check.GREW
    assert track.labels is not None
    track.anchor(MemoryFrame(tokens.features, track.labels))
    assert track.trust.check is None
    assert box_in_tokens(track.next_prompt(BLANK, FrameTokens(embedding))) == [8, 6, 20, 18]
    assert track.update(BLANK, larger) is larger
    assert track.trust.check is None


async def test_pictures_without_order_have_the_decoders_rating_as_confidence() -> None:
    fixed = FixedPrompt(BOX)
    assert fixed.update(BLANK, ObjectMask(BOX, square(28, 36), 0.8)) is not None
    assert fixed.trust == Trust(0.8)
    assert fixed.update(BLANK, ObjectMask(BOX, square(28, 36), 0.1)) is not None
    assert fixed.trust == Trust(0.1, Check.UNSURE)
    fixed.anchor(None)
    assert fixed.update(BLANK, ObjectMask(BOX, square(28, 36), 0.1)) is not None
    assert fixed.trust == Trust(0.1)
