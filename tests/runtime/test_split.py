"""Split equals whole through the edge's own parts: windows one by one, global stage, masks."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.encoder import local_encoder
from runtime.frames.canvas import Canvas
from runtime.objects.decode import decode
from runtime.objects.masks import iou
from runtime.objects.prompts import Prompt
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.tensors import Array
from tests.support.edge import EDGE, canvas_of, edge_engines
from tests.support.pictures import SHAPES

pytestmark = pytest.mark.anyio


async def both(bundle: Bundle, engines: EngineThread, wire: str, canvas: Canvas) -> tuple[Array, Array]:
    """The image embedding through the stages, and through the `whole` graph."""
    async with local_encoder(bundle, engines, wire) as encoder:
        split = await encoder.encode(canvas)
    whole = await engines.infer("whole", canvas.whole_inputs(bundle))
    return split, whole["image_embedding"]


def prompts_on(canvas: Canvas) -> list[Prompt]:
    """A box and a point in each quarter of the frame."""
    prompts = []
    for number in range(4):
        x, y = canvas.width * (0.25 + 0.5 * (number % 2)), canvas.height * (0.25 + 0.5 * (number // 2))
        half = (canvas.width / 5, canvas.height / 5)
        prompts.append(Prompt(f"box {number}", (x - half[0], y - half[1], x + half[0], y + half[1])))
        prompts.append(Prompt(f"point {number}", None, ((x, y, 1),)))
    return prompts


async def test_embeddings_in_fp32(exported_fp32: Bundle) -> None:
    async with edge_engines(exported_fp32, (*EDGE, "whole")) as engines:
        for shape in SHAPES:
            canvas = canvas_of(shape, exported_fp32.geometry)
            split, whole = await both(exported_fp32, engines, "fp32", canvas)
            assert whole.std() > 0.1
            assert np.abs(split - whole).max() <= 1e-4, shape


@pytest.mark.parametrize(("wire", "least"), [("fp16", 0.999), ("int8", 0.98)])
async def test_masks_through_a_wire(mini_bundle: Bundle, wire: str, least: float) -> None:
    async with edge_engines(mini_bundle, (*EDGE, "whole")) as engines:
        for shape in SHAPES:
            canvas = canvas_of(shape, mini_bundle.geometry)
            split, whole = await both(mini_bundle, engines, wire, canvas)
            assert np.abs(split - whole).max() > 1e-4  # or the wire was not taken
            found = await decode(engines, split, canvas, prompts_on(canvas))
            expected = await decode(engines, whole, canvas, prompts_on(canvas))
            for ours, theirs in zip(found, expected, strict=True):
                mask = canvas.to_frame_mask(theirs.logits)
                assert 0.02 < mask.mean() < 0.98
                assert iou(canvas.to_frame_mask(ours.logits), mask) >= least, (shape, ours.prompt.name)
