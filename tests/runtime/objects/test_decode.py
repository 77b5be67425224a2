"""Masks: grouping and order of prompts, which mask is chosen, and segment_anything's SamPredictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.demo.demo import photo
from runtime.encoder import local_encoder
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import ObjectMask, choose_mask, decode
from runtime.objects.masks import iou
from runtime.objects.prompts import Prompt
from stages.bundle import Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.engines.tensorrt_engine import TensorRtEngine
from stages.engines.thread import EngineThread
from stages.geometry import GEOMETRIES
from stages.tensors import Array
from tests.support.edge import edge_engines
from tests.support.engines import DISCRETE, FakeCuda, FakeTensorRt, linked, put_plan

pytestmark = pytest.mark.anyio

MINI = GEOMETRIES["mini"]
POINT = Prompt("point", None, ((300, 190, 1),))
POINTS = Prompt("points", None, ((300, 190, 1), (450, 240, 1), (60, 350, 0)))
BOX = Prompt("box", (142.0, 67.0, 478.5, 321.0))
BOX_AND_POINTS = Prompt("box and points", (142, 67, 478, 321), ((300, 190, 1), (160, 80, 0)))
MIXED = (BOX, POINT, POINTS, BOX_AND_POINTS, Prompt("second point", None, ((80, 60, 1),)))


@dataclass
class FakeEngines:
    """Stands in for EngineThread: a decoder whose masks carry the prompt's first x, and its calls."""

    calls: list[dict[str, Array]] = field(default_factory=list)

    async def infer(
        self, name: str, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None, *, order: int = 0
    ) -> dict[str, Array]:
        assert name == "decoder"
        self.calls.append(dict(feeds))
        first_x = feeds["point_coords"][:, 0, 0]
        masks = np.zeros((len(first_x), 4, 2, 2), np.float32) + first_x[:, None, None, None]
        masks += np.arange(4)[:, None, None] / 10
        return {
            "low_res_masks": masks,
            "iou": np.tile(np.array([0.9, 0.1, 0.3, 0.2], np.float32), (len(first_x), 1)),
        }


async def test_objects_of_equally_many_tokens_share_a_call_and_keep_their_order() -> None:
    canvas = make_canvas(np.zeros((384, 384, 3), np.uint8), MINI)
    engines: Any = FakeEngines()
    found = await decode(engines, np.zeros(1), canvas, MIXED)
    assert [each.prompt for each in found] == list(MIXED)
    assert [call["point_coords"].shape for call in engines.calls] == [(3, 2, 2), (2, 4, 2)]
    assert [call["has_mask_input"].tolist() for call in engines.calls] == [[[0]] * 3, [[0]] * 2]
    # its own mask: number 2, the best of 1..3, for one point alone, else number 0
    expected = [142.0, 300.2, 300.0, 300.0, 80.2]
    assert [float(each.logits[0, 0]) for each in found] == pytest.approx(expected)
    assert [each.iou for each in found] == pytest.approx([0.9, 0.3, 0.9, 0.9, 0.3])


@pytest.mark.parametrize(
    ("prompt", "ious", "chosen"),
    [
        (POINT, [9, 1, 2, 3], 3),
        (POINT, [9, 3, 3, 1], 1),
        (POINTS, [0, 1, 2, 3], 0),
        (BOX, [0, 1, 2, 3], 0),
        (BOX_AND_POINTS, [0, 1, 2, 3], 0),
    ],
)
async def test_which_mask_is_used(prompt: Prompt, ious: list[int], chosen: int) -> None:
    assert choose_mask(prompt, np.array(ious, np.float32)) == chosen


async def test_no_prompt_no_call() -> None:
    engines: Any = FakeEngines()
    canvas = make_canvas(np.zeros((384, 384, 3), np.uint8), MINI)
    assert await decode(engines, np.zeros(1), canvas, ()) == []
    assert engines.calls == []


async def test_more_objects_than_a_plan_takes_get_the_masks_they_get_elsewhere(tmp_path: Path) -> None:
    """Nine boxes and one of other tokens among them, through a TensorRT engine of four objects at a time."""
    bundle = linked(Bundle.load(shipped_bundle()), tmp_path / "bundle")
    put_plan(bundle, "decoder", DISCRETE)
    trt, canvas = FakeTensorRt(bundle, "decoder"), make_canvas(photo("coffee"), bundle.geometry)
    boxes = [Prompt(f"box {i}", (20.0 + 30 * i, 30, 200.0 + 40 * i, 300)) for i in range(9)]
    prompts = [*boxes[:4], POINTS, *boxes[4:]]
    shape = (1, bundle.geometry.prompt_dim, bundle.geometry.tokens, bundle.geometry.tokens)
    image_embedding = np.random.default_rng(5).standard_normal(shape).astype(np.float32)

    async def found(factory: Callable[[], Engine]) -> list[ObjectMask]:
        async with EngineThread({"decoder": factory}) as engines:
            return await decode(engines, image_embedding, canvas, prompts)

    in_parts = await found(lambda: TensorRtEngine(bundle, "decoder", DISCRETE, (trt, FakeCuda())))
    at_once = await found(lambda: make_engine(bundle, "decoder", "onnxruntime-cpu"))
    assert trt.execution is not None
    assert trt.execution.batches == [4, 4, 1, 1]
    for part, whole, prompt in zip(in_parts, at_once, prompts, strict=True):
        assert part.prompt == whole.prompt == prompt
        assert np.abs(part.logits - whole.logits).max() < 1e-3
        assert part.iou == pytest.approx(whole.iou, abs=1e-4)
    assert len({each.logits.tobytes() for each in in_parts}) == len(prompts)


@pytest.fixture(scope="module")
def predictor() -> Any:
    """segment_anything's SamPredictor on the model the test bundles hold, blocks reordered, photo set."""
    from export.modules import reordered_encoder
    from export.sam import SamPredictor, build_sam, randomise

    sam = build_sam(MINI)
    randomise(sam)
    reordered_encoder(sam.image_encoder, MINI)
    predictor = SamPredictor(sam)
    predictor.set_image(photo("coffee"))
    return predictor


def sams_mask(predictor: Any, prompt: Prompt) -> tuple[Array, float]:
    points = np.array([(x, y) for x, y, _ in prompt.points]) if prompt.points else None
    labels = np.array([label for _, _, label in prompt.points]) if prompt.points else None
    box = np.array(prompt.box_xyxy) if prompt.box_xyxy else None
    masks, ious, _ = predictor.predict(points, labels, box, multimask_output=prompt.single_point)
    best = int(np.argmax(ious))
    return masks[best], float(ious[best])


async def masks_of(bundle: Bundle, prompts: Sequence[Prompt]) -> tuple[Canvas, list[ObjectMask]]:
    """Masks on the photograph, the way `pedsam run` computes them without sites."""
    canvas = make_canvas(photo("coffee"), bundle.geometry)
    async with edge_engines(bundle) as engines:
        image_embedding = await image_embedding_of(bundle, engines, canvas)
        return canvas, await decode(engines, image_embedding, canvas, prompts)


async def image_embedding_of(bundle: Bundle, engines: EngineThread, canvas: Canvas) -> Array:
    async with local_encoder(bundle, engines, "fp32") as encoder:
        return await encoder.encode(canvas)


@pytest.mark.parametrize(
    "prompts", [(POINT,), (POINTS,), (BOX,), (BOX_AND_POINTS,), MIXED], ids=lambda p: p[0].name + f" {len(p)}"
)
async def test_masks_are_sam_predictors(
    exported_fp32: Bundle, predictor: Any, prompts: tuple[Prompt, ...]
) -> None:
    canvas, found = await masks_of(exported_fp32, prompts)
    for prompt, each in zip(prompts, found, strict=True):
        mask, predicted_iou = sams_mask(predictor, prompt)
        assert 0.02 < mask.mean() < 0.98
        assert iou(canvas.to_frame_mask(each.logits), mask) >= 0.9999
        assert each.iou == pytest.approx(predicted_iou, abs=1e-3)
