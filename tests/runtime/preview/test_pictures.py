"""Frames as viewers get them."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import count
from typing import Any

import anyio
import numpy as np
import pytest
from cv2 import imencode
from PIL import Image

from runtime.frames.sources import Frame
from runtime.live.newest import Newest
from runtime.objects.masks import Mask, decode_mask, encode_mask
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.preview import pictures
from runtime.preview.pictures import FrameEncoder
from runtime.preview.protocol import decode_frame
from runtime.results.result import Choice, FrameResult, ObjectResult
from stages.geometry import GEOMETRIES
from tests.support.pictures import photo

pytestmark = pytest.mark.anyio


def frame(number: int = 1) -> FrameResult:
    pixels = photo("16:9")
    mask = np.zeros(pixels.shape[:2], bool)
    mask[100:180, 200:360] = True
    objects = (
        ObjectResult("cup", 0, TrackState.TRACKED, 0.91234, mask, trust=Trust(0.84126, Check.GREW)),
        ObjectResult("gone", 1, TrackState.LOST, 0.1, None),
        ObjectResult("empty", 2, TrackState.TRACKED, 0.2, np.zeros_like(mask)),
    )
    return FrameResult(Frame(number, str(number), 1.5, pixels), objects, latency_s=0.1)


def frames(shown: FrameResult | None = None) -> Newest[FrameResult]:
    made: Newest[FrameResult] = Newest()
    made.put(shown or frame())
    return made


async def test_a_small_frame_goes_out_as_it_is() -> None:
    header, jpeg = decode_frame((await FrameEncoder(frames(), GEOMETRIES["mini"], 1280, 90).after(0)).message)
    assert (header["number"], header["time_s"], header["latency_s"]) == (1, 1.5, 0.1)
    assert (header["width"], header["height"]) == (640, 360)
    cup, gone, empty = header["objects"]
    assert (decode_mask(cup["mask"]) == frame().objects[0].mask).all()
    assert {**cup, "mask": 0} == {
        "name": "cup", "colour": 0, "state": "tracked", "iou": 0.9123, "mask": 0, "box": [200, 100, 360, 180],
        "confidence": 0.8413, "check": "grew",
    }  # fmt: skip
    assert (gone["mask"], gone["box"], gone["state"]) == (None, None, "lost")
    assert (empty["mask"], empty["box"]) == (None, None)
    got = np.asarray(Image.open(io.BytesIO(jpeg)), np.float32)
    assert np.abs(got - photo("16:9")).mean() < 4  # colours in their order, JPEG's loss


async def test_a_large_frame_is_scaled_with_its_masks_and_not_its_boxes() -> None:
    header, jpeg = decode_frame((await FrameEncoder(frames(), GEOMETRIES["mini"], 320, 90).after(0)).message)
    assert Image.open(io.BytesIO(jpeg)).size == (320, 180)
    cup = header["objects"][0]
    assert decode_mask(cup["mask"]).sum() == 80 * 40
    assert cup["mask"]["size"] == [180, 320]
    assert cup["box"] == [200, 100, 360, 180]
    assert (header["width"], header["height"]) == (640, 360)


@pytest.mark.parametrize(
    ("shape", "boxes"),
    [
        ("16:9", [[0, 0, 133, 133], [533, 267, 640, 360]]),  # mini: 80 pixels of 384 for 640
        ("portrait", [[0, 0, 100, 100], [200, 200, 270, 300]]),
    ],
)
async def test_windows_that_were_kept_are_told_with_their_place(shape: str, boxes: list[list[int]]) -> None:
    pixels = photo(shape)
    kept = frozenset({12, 0}) if shape == "portrait" else frozenset({14, 0})
    shown = FrameResult(Frame(1, "1", 0.0, pixels), (), kept=kept)
    header, _ = decode_frame(
        (await FrameEncoder(frames(shown), GEOMETRIES["mini"], 320, 80).after(0)).message
    )
    assert [each["window"] for each in header["kept"]] == sorted(kept)
    assert [each["box"] for each in header["kept"]] == boxes
    header, _ = decode_frame((await FrameEncoder(frames(), GEOMETRIES["mini"], 320, 80).after(0)).message)
    assert header["kept"] == []


async def test_a_frame_is_encoded_once_for_all_and_only_when_somebody_waits() -> None:
    newest = frames()
    encoder = FrameEncoder(newest, GEOMETRIES["mini"], 320, 80)
    newest.put(frame(2))
    assert encoder.encoded == 0
    got = []

    async def wait() -> None:
        got.append(await encoder.after(0))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait)
    assert {one.number for one in got} == {2}
    assert encoder.encoded == 1


async def test_who_waits_gets_the_next_frame() -> None:
    newest = frames()
    encoder = FrameEncoder(newest, GEOMETRIES["mini"], 320, 80)
    first = await encoder.after(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_put, newest)
        second = await encoder.after(first.version)
    assert (first.number, second.number) == (1, 2)


async def _put(newest: Newest[FrameResult]) -> None:
    newest.put(frame(2))


async def test_of_a_frame_that_comes_again_only_what_has_changed_is_coded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown, stream = frame(), frames()
    stream.put(shown)
    encoder = FrameEncoder(stream, GEOMETRIES["mini"], 1280, 90)
    masks, jpegs = count(), count()

    def counted_mask(mask: Mask) -> dict[str, Any]:
        next(masks)
        return encode_mask(mask)

    def counted_jpeg(*given: Any) -> Any:
        next(jpegs)
        return imencode(*given)

    monkeypatch.setattr(pictures, "encode_mask", counted_mask)
    monkeypatch.setattr("cv2.imencode", counted_jpeg)
    before = await encoder.after(0)
    counted = next(masks)
    more = replace(shown.objects[0], name="saucer")
    stream.put(replace(shown, objects=(*shown.objects, more)))
    after = await encoder.after(before.version)
    (header, jpeg), (header_before, jpeg_before) = map(decode_frame, (after.message, before.message))
    assert header["objects"][:3] == header_before["objects"]
    assert header["objects"][3]["name"] == "saucer"
    assert jpeg == jpeg_before
    assert next(jpegs) == 1
    assert next(masks) == counted + 2  # one was counted above


async def test_what_a_lone_point_may_mean_is_described_with_the_one_that_was_taken() -> None:
    found = frame().objects[0]
    assert found.mask is not None
    choices = tuple(Choice(found.mask, rating) for rating in (0.3, 0.9, 0.6))
    for prompt, chosen in ((None, 2), (Prompt("cup", None, ((1, 1, 1),), mask=3), 3)):
        shown = replace(frame(), objects=(replace(found, choices=choices, prompt=prompt),))
        encoder = FrameEncoder(frames(shown), GEOMETRIES["mini"], 320, 90)
        header, _ = decode_frame((await encoder.after(0)).message)
        (described,) = header["objects"]
        assert described["chosen"] == chosen
        assert [each["iou"] for each in described["choices"]] == [0.3, 0.9, 0.6]
        assert described["choices"][0]["mask"]["size"] == [180, 320]
