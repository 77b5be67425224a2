"""Split equals whole: the exported stages against segment_anything's own modules, reordered and run whole.

Tolerances: fp32 embeddings 1e-4 absolute on the image embedding (1e-5 has been measured); masks through the
fp16 wire IoU >= 0.999, through the int8 wire >= 0.98.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from export.checks.parity import infer, opened
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import choose_mask, decoder_inputs
from runtime.objects.masks import iou
from runtime.objects.prompts import Prompt
from runtime.sites.answers import to_embedding
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.bundles import random_weights
from tests.support.pictures import SHAPES, photo

SHAPE_OF_ALL = "1000x667"  # on which vit_b is tried as whole and with every wire format too


@dataclass
class Rig:
    """One model both ways: the exported stages of `bundle`, and `reference` as segment_anything runs it.

    A stage is opened for each use: the engines of vit_b keep gigabytes while they are open.
    """

    bundle: Bundle
    reference: Callable[[Canvas], Array]


@pytest.fixture(scope="module", params=["mini", pytest.param("vit_b", marks=pytest.mark.full)])
def rig(request: pytest.FixtureRequest, exported: Callable[[str, str], Bundle]) -> Rig:
    bundle = exported(request.param, "float32")
    return Rig(bundle, segment_anything_encoder(bundle))


def segment_anything_encoder(bundle: Bundle) -> Callable[[Canvas], Array]:
    """segment_anything's preprocess and encoder, blocks reordered, on the weights of the test bundles."""
    import torch

    from export.modules import reordered_encoder

    sam = random_weights(bundle.geometry).sam
    encoder = reordered_encoder(sam.image_encoder, bundle.geometry)

    def encode(canvas: Canvas) -> Array:
        picture = np.ascontiguousarray(canvas.pixels[: canvas.rows, : canvas.cols].transpose(2, 0, 1))
        with torch.inference_mode():
            pixels = sam.preprocess(torch.from_numpy(picture)[None].float())
            embedding: Array = encoder(pixels).numpy()
        return embedding

    return encode


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
    whole = infer(rig.bundle, "whole", canvas.whole_inputs(rig.bundle))["image_embedding"]
    assert np.abs(whole - reference).max() < 1e-4
    for wire, least in (("fp16", 0.999), ("int8", 0.98)):
        assert _lowest_iou(expected, _masks(rig, canvas, _image_embedding(rig, answers[wire]))) >= least


def _window_answers(rig: Rig, canvas: Canvas) -> dict[str, Array]:
    """Embeddings of all windows as each wire format delivers them; those without picture from the bundle."""
    fp32 = rig.bundle.padding_embeddings().copy()
    int8 = fp32.copy()
    with opened(rig.bundle, "window") as engine:
        for window in canvas.windows:
            outputs = engine.infer(canvas.window_inputs([window], rig.bundle))
            fp32[window] = outputs.pop("embedding")[0]
            int8[window] = to_embedding(outputs, "float32")[0]
    return {"fp32": fp32, "fp16": fp32.astype(np.float16).astype(np.float32), "int8": int8}


def _image_embedding(rig: Rig, embedding: Array) -> Array:
    return infer(rig.bundle, "global", {"embedding": embedding})["image_embedding"]


def _masks(rig: Rig, canvas: Canvas, image_embedding: Array) -> list[Array]:
    """Masks of a box and of a point, bool [H, W]."""
    w, h = canvas.width, canvas.height
    prompts = (
        Prompt("box", (0.2 * w, 0.2 * h, 0.8 * w, 0.7 * h)),
        Prompt("point", None, ((0.5 * w, 0.5 * h, 1),)),
    )
    outputs = infer(rig.bundle, "decoder", decoder_inputs(image_embedding, canvas, prompts))
    return [
        canvas.to_frame_mask(masks[choose_mask(prompt, ious)])
        for prompt, masks, ious in zip(prompts, outputs["low_res_masks"], outputs["iou"], strict=True)
    ]


def _lowest_iou(expected: list[Array], actual: list[Array]) -> float:
    return min(iou(a, b) for a, b in zip(expected, actual, strict=True))
