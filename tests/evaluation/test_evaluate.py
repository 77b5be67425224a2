"""Measuring with models that are told what to predict: prompts, calls, IoU, and a picture that is lost."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.evaluate import evaluate, measure
from evaluation.masks import box_of
from evaluation.model import Model, Subject, bundle_subject
from evaluation.options import EvaluateOptions
from evaluation.report import make_report
from evaluation.results import Measured
from runtime.encoder import FrameLost
from runtime.frames.canvas import Canvas
from runtime.objects.decode import ObjectMask
from runtime.objects.masks import Mask, decode_mask, iou
from runtime.objects.prompts import Prompt
from stages.bundle import Bundle
from stages.console import make_console
from stages.errors import PedsamError
from stages.geometry import GEOMETRIES
from stages.tensors import Array
from training.data import read_samples
from training.tally import Tally

pytestmark = pytest.mark.anyio

MINI = GEOMETRIES["mini"]
SIDE = MINI.mask_px  # pictures of this size: logits of a mask lie on its pixels, and come back as they were


@dataclass
class Oracle:
    """Predicts `answer(mask)` for the instance it is prompted for, and keeps what it was asked."""

    masks: dict[str, Mask]
    answer: Callable[[Mask], Mask] = lambda mask: mask
    canvases: list[Canvas] = field(default_factory=list)
    calls: list[tuple[Prompt, ...]] = field(default_factory=list)

    async def encode(self, canvas: Canvas) -> Array:
        self.canvases.append(canvas)
        return np.full(1, len(self.canvases))

    async def decode(self, embedding: Array, canvas: Canvas, prompts: Sequence[Prompt]) -> list[ObjectMask]:
        assert canvas is self.canvases[-1]
        assert embedding == len(self.canvases)
        self.calls.append(tuple(prompts))
        return [ObjectMask(prompt, self._logits(prompt), 0.5) for prompt in prompts]

    def _logits(self, prompt: Prompt) -> Any:
        return np.where(self.answer(self.masks[prompt.name]), 8, -8).astype(np.float32)

    @property
    def model(self) -> Model:
        return Model("split", "fp16", self.encode, self.decode)


def options(data: Path, *kinds: str, **more: Any) -> EvaluateOptions:
    return EvaluateOptions(data=data, out=data / "out", prompts=kinds or ("point", "box"), **more)


def write_picture(folder: Path, name: str, labels: Array) -> dict[str, Mask]:
    """A picture of noise with a label map; returns its masks by instance number."""
    noise = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"{name}.jpg")
    Image.fromarray(labels.astype(np.uint8)).save(folder / f"{name}.png")
    return {str(number): labels == number for number in range(1, int(labels.max()) + 1)}


@pytest.fixture
def blots() -> Array:
    """A label map [SIDE, SIDE] of 20 instances: an odd shape, and 19 squares of four pixels."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    labels[np.hypot(rows - 60, cols - 40) < 25] = 1
    labels[70:80, 20:60] = 0
    for number in range(19):
        labels[4:8, 5 * number : 5 * number + 4] = number + 2
    return labels


async def run(oracle: Oracle, chosen: EvaluateOptions) -> Measured:
    return await measure(oracle.model, MINI, read_samples(chosen.data, None, Tally()), chosen)


async def test_perfect_predictions_give_one(tmp_path: Path, blots: Array) -> None:
    measured = await run(Oracle(write_picture(tmp_path, "a", blots)), options(tmp_path))
    assert [each.number for each in measured.instances] == list(range(1, 21))
    assert all(each.ious == {"point": 1.0, "box": 1.0} for each in measured.instances)
    assert measured.instances[0].floors["box"] < 1.0 == measured.instances[1].floors["box"]
    assert measured.instances[1].area_share == 16 / SIDE**2


async def test_a_prediction_counts_as_much_as_it_overlaps(tmp_path: Path, blots: Array) -> None:
    """Every prediction is moved by two columns: of squares of 4 x 4, 8 pixels of 24 agree."""
    masks = write_picture(tmp_path, "a", blots)
    oracle = Oracle(masks, lambda mask: np.roll(mask, 2, axis=1))
    measured = await run(oracle, options(tmp_path, "box"))
    assert {round(each.ious["box"], 6) for each in measured.instances[1:-1]} == {round(8 / 24, 6)}
    assert measured.instances[0].ious["box"] == iou(np.roll(masks["1"], 2, axis=1), masks["1"])


async def test_instances_are_decoded_by_kind_in_calls_of_sixteen(tmp_path: Path, blots: Array) -> None:
    masks = write_picture(tmp_path, "a", blots)
    oracle = Oracle(masks)
    await run(oracle, options(tmp_path))
    assert [len(call) for call in oracle.calls] == [16, 4, 16, 4]
    points, boxes = (
        [prompt for call in calls for prompt in call] for calls in (oracle.calls[:2], oracle.calls[2:])
    )
    for prompt in points:
        ((x, y, label),) = prompt.points
        assert masks[prompt.name][int(y), int(x)]
        assert label == 1
    assert [prompt.box_xyxy for prompt in boxes] == [box_of(mask) for mask in masks.values()]


async def test_masks_are_kept_for_the_sheet_alone(tmp_path: Path, blots: Array) -> None:
    masks = write_picture(tmp_path, "a", blots)
    oracle = Oracle(masks, lambda mask: ~mask)
    (first, *_) = (await run(oracle, options(tmp_path, "box"))).instances
    assert (decode_mask(first.masks["box"]) == ~masks["1"]).all()
    (first, *_) = (await run(oracle, options(tmp_path, "box", sheet=False))).instances
    assert first.masks == {}


async def test_the_model_sees_the_blurred_picture(tmp_path: Path, blots: Array) -> None:
    oracle = Oracle(write_picture(tmp_path, "a", blots))
    await run(oracle, options(tmp_path, "box"))
    await run(oracle, options(tmp_path, "box", blur=40.0))
    sharp, soft = (canvas.pixels[: canvas.rows, : canvas.cols].astype(int) for canvas in oracle.canvases)
    assert np.diff(soft, axis=1).std() < np.diff(sharp, axis=1).std() / 4


async def test_progress_counts_instances_and_times_count_pictures(tmp_path: Path, blots: Array) -> None:
    masks = write_picture(tmp_path, "a", blots)
    write_picture(tmp_path, "b", blots * (blots == 1))
    chosen = options(tmp_path)
    done: list[int] = []
    samples = read_samples(tmp_path, None, Tally())
    measured = await measure(Oracle(masks).model, MINI, samples, chosen, done.append)
    assert done == [20, 21]
    assert (len(measured.encode_s), len(measured.decode_s)) == (2, 2)
    assert [each.picture for each in measured.instances] == [0] * 20 + [1]


async def test_a_lost_picture_ends_the_evaluation(tmp_path: Path, blots: Array) -> None:
    masks = write_picture(tmp_path, "a", blots)
    write_picture(tmp_path, "b", blots)
    oracle = Oracle(masks)

    async def encode(canvas: Canvas) -> Array:
        if oracle.canvases:
            raise FrameLost("window 3: add a spare site")
        return await oracle.encode(canvas)

    model = Model("sites", "fp16", encode, oracle.decode)
    with pytest.raises(PedsamError, match="picture b cannot be computed: window 3: add a spare site"):
        await measure(model, MINI, read_samples(tmp_path, None, Tally()), options(tmp_path))


async def test_the_report_holds_means_over_instances(
    tmp_path: Path, blots: Array, mini_bundle: Bundle
) -> None:
    """One of 21 instances is missed, and the two pictures count by their instances."""
    masks = write_picture(tmp_path, "a", blots)
    write_picture(tmp_path, "b", blots * (blots == 1))
    oracle = Oracle(masks, lambda mask: mask & (mask is not masks["2"]))
    chosen = options(tmp_path, "box", blur=0.5)
    measured = await run(oracle, chosen)
    subject = bundle_subject(mini_bundle, chosen, whole=False)
    report = make_report(subject, chosen, oracle.model, measured, Tally())
    assert report["miou"] == {"box": pytest.approx(20 / 21)}
    assert report["share_over_half"] == {"box": pytest.approx(20 / 21)}
    assert report["interval95"]["box"] == pytest.approx((19 / 20, 1.0))
    assert (report["instances"], report["pictures"], report["blur"]) == (21, 2, 0.5)
    odd = measured.instances[0].floors["box"]
    assert report["floors"]["box"] == pytest.approx((19 + 2 * odd) / 21)


async def test_a_site_that_comes_and_goes_is_told_in_few_lines(tmp_path: Path, blots: Array) -> None:
    oracle = Oracle(write_picture(tmp_path, "a", blots))

    @contextlib.asynccontextmanager
    async def opened(sizes: Collection[tuple[int, int]], say: Callable[[str], None]) -> AsyncIterator[Model]:
        for _ in range(50):
            say("site a: is back and has its windows again")
        yield oracle.model

    facts = {"description": "mini", "model": "mini", "weights": "none", "trained_on": "", "site_digest": ""}
    terminal = make_console(file=io.StringIO(), width=30)
    await evaluate(Subject(MINI, facts, opened), options(tmp_path, "box", sheet=False), terminal)
    assert isinstance(terminal.file, io.StringIO)
    said = [line for line in terminal.file.getvalue().splitlines() if line.startswith("site")]
    assert said == [
        "site a: is back and has its windows again",
        "site a: is back and has its windows again (49 times since)",
    ]
