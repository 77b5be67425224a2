"""Split equals whole: the exported stages against segment_anything's own modules, reordered and run whole.

Tolerances: fp32 embeddings 1e-4 absolute on the image embedding (1e-5 has been measured); masks through the
fp16 wire IoU >= 0.999, through the int8 wire >= 0.98.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from runtime.canvas import Canvas, make_canvas
from runtime.client import to_embedding
from runtime.decode import choose_mask, decoder_inputs
from runtime.prompts import Prompt
from runtime.verify import iou
from stages.bundle import Bundle
from stages.engine import Engine, make_engine
from stages.tensors import Array
from tests.pictures import SHAPES, photo

SHAPE_OF_ALL = "1000x667"  # on which vit_b is tried as whole and with every wire format too


@dataclass
class Rig:
    """One model both ways: `engines` of its exported stages, `reference` as segment_anything runs it."""

    bundle: Bundle
    engines: dict[str, Engine]
    reference: Callable[[Canvas], Array]


@pytest.fixture(scope="module", params=["mini", "vit_b"])
def rig(request: pytest.FixtureRequest, exported: Callable[[str, str], Bundle]) -> Iterator[Rig]:
    bundle = exported(request.param, "float32")
    engines = {name: make_engine(bundle, name) for name in ("window", "global", "decoder", "whole")}
    for engine in engines.values():
        engine.open()
    yield Rig(bundle, engines, segment_anything_encoder(bundle))
    for engine in engines.values():
        engine.close()


def segment_anything_encoder(bundle: Bundle) -> Callable[[Canvas], Array]:
    """segment_anything's preprocess and encoder, blocks reordered, on the weights of the test bundles."""
    import torch

    from export.modules import reordered_encoder
    from export.sam import build_sam, randomise

    sam = build_sam(bundle.geometry)
    randomise(sam)
    encoder = reordered_encoder(sam.image_encoder, bundle.geometry)

    def encode(canvas: Canvas) -> Array:
        picture = np.ascontiguousarray(canvas.pixels[: canvas.rows, : canvas.cols].transpose(2, 0, 1))
        with torch.inference_mode():
            pixels = sam.preprocess(torch.from_numpy(picture)[None].float())
            embedding: Array = encoder(pixels).numpy()
        return embedding

    return encode


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", SHAPES)
def test_split_equals_whole(rig: Rig, shape: str) -> None:
    canvas = make_canvas(photo(shape), rig.bundle.geometry)
    reference = rig.reference(canvas)
    answers = _window_answers(rig, canvas)
    assert np.abs(_image_embedding(rig, answers["fp32"]) - reference).max() < 1e-4
    expected = _masks(rig, canvas, reference)
    assert all(0.02 < mask.mean() < 0.98 for mask in expected)  # masks that could differ
    if rig.bundle.geometry.name != "mini" and shape != SHAPE_OF_ALL:
        return  # a minute a shape; how bytes are rounded does not depend on it
    whole = rig.engines["whole"].infer(canvas.whole_inputs())["image_embedding"]
    assert np.abs(whole - reference).max() < 1e-4
    for wire, least in (("fp16", 0.999), ("int8", 0.98)):
        assert _lowest_iou(expected, _masks(rig, canvas, _image_embedding(rig, answers[wire]))) >= least


def _window_answers(rig: Rig, canvas: Canvas) -> dict[str, Array]:
    """Embeddings of all windows as each wire format delivers them; those without picture from the bundle."""
    fp32 = rig.bundle.padding_embeddings().copy()
    int8 = fp32.copy()
    for window in canvas.windows:
        outputs = rig.engines["window"].infer(canvas.window_inputs(window))
        fp32[window] = outputs.pop("embedding")[0]
        int8[window] = to_embedding(outputs, "float32")[0]
    return {"fp32": fp32, "fp16": fp32.astype(np.float16).astype(np.float32), "int8": int8}


def _image_embedding(rig: Rig, embedding: Array) -> Array:
    return rig.engines["global"].infer({"embedding": embedding})["image_embedding"]


def _masks(rig: Rig, canvas: Canvas, image_embedding: Array) -> list[Array]:
    """Masks of a box and of a point, bool [H, W]."""
    w, h = canvas.width, canvas.height
    prompts = (
        Prompt("box", (0.2 * w, 0.2 * h, 0.8 * w, 0.7 * h)),
        Prompt("point", None, ((0.5 * w, 0.5 * h, 1),)),
    )
    outputs = rig.engines["decoder"].infer(decoder_inputs(image_embedding, canvas, prompts))
    return [
        canvas.to_frame_mask(masks[choose_mask(prompt, ious)])
        for prompt, masks, ious in zip(prompts, outputs["low_res_masks"], outputs["iou"], strict=True)
    ]


def _lowest_iou(expected: list[Array], actual: list[Array]) -> float:
    return min(iou(a, b) for a, b in zip(expected, actual, strict=True))
