"""The predictor beside segment_anything's own SamPredictor, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pedsam
from runtime.objects.masks import iou
from stages.bundle import Bundle
from tests.support.bundles import random_weights
from tests.support.pictures import SHAPES, photo

# Between graphs that onnxruntime runs and modules that torch runs, both in fp32.
EMBEDDING, LOGITS, SCORES, OVERLAP = 1e-4, 1e-3, 1e-3, 0.9999


def sam_predictor(bundle: Bundle) -> Any:
    """segment_anything's, with the weights and the order of blocks of a test bundle."""
    from export.modules import reordered_encoder
    from export.sam import SamPredictor

    sam = random_weights(bundle.geometry).sam
    reordered_encoder(sam.image_encoder, bundle.geometry)
    return SamPredictor(sam)


def opened(bundle: Bundle) -> pedsam.Session:
    return pedsam.open(bundle.path, allow_undistilled=True, wire="fp32", threads=1)


@pytest.fixture(scope="module")
def both(exported_fp32: Bundle) -> Iterator[tuple[pedsam.Predictor, Any]]:
    """Ours, of a bundle exported with its unsplit stage, and theirs."""
    assert exported_fp32.has("whole")
    with opened(exported_fp32) as session:
        yield session.predictor(), sam_predictor(exported_fp32)


POINT, POINTS = np.array([[300, 190]]), np.array([[300, 190], [450, 240], [60, 350]])
BOX = np.array([142, 67, 478.5, 321])
CALLS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": POINT, "point_labels": np.array([1])},
    "points": {"point_coords": POINTS, "point_labels": np.array([1, 1, 0])},
    "box": {"box": BOX},
    "box of one row": {"box": BOX[None]},
    "both": {"point_coords": POINTS, "point_labels": np.array([1, 1, 0]), "box": BOX},
    "one mask": {"box": BOX, "multimask_output": False},
    "logits": {"point_coords": POINT, "point_labels": np.array([1]), "return_logits": True},
    "outside": {"point_coords": np.array([[-5, 900]]), "point_labels": np.array([1])},
}


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
def test_masks_scores_and_logits_are_those_of_sam_predictor(
    both: tuple[pedsam.Predictor, Any], arguments: dict[str, Any]
) -> None:
    for predictor in both:
        predictor.set_image(photo("16:9"))
    alike(*(predictor.predict(**arguments) for predictor in both))


def test_a_mask_goes_in_again(both: tuple[pedsam.Predictor, Any]) -> None:
    """As code that refines a mask does: the best one's logits beside another point."""
    for predictor in both:
        predictor.set_image(photo("16:9"))
    _, scores, logits = both[1].predict(POINT, np.array([1]))
    earlier = logits[[int(scores.argmax())]]
    arguments = {**CALLS["points"], "multimask_output": False}
    ours, theirs = (predictor.predict(**arguments, mask_input=earlier) for predictor in both)
    alike(ours, theirs)
    without = both[0].predict(**arguments)
    assert np.abs(without[2] - ours[2]).max() > 10 * LOGITS  # it counts


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_every_shape(both: tuple[pedsam.Predictor, Any], shape: str) -> None:
    ours, theirs = both
    height, width = photo(shape).shape[:2]
    for predictor in both:
        predictor.set_image(photo(shape)[..., ::-1], image_format="BGR")
    assert (ours.original_size, ours.input_size) == (theirs.original_size, theirs.input_size)
    embedding = theirs.get_image_embedding().numpy()
    assert (ours.get_image_embedding().dtype.name, embedding.shape) == ("float32", (1, 256, 24, 24))
    assert np.abs(ours.get_image_embedding() - embedding).max() <= EMBEDDING
    box = np.array([width / 4, height / 4, width * 0.7, height * 0.8])
    alike(ours.predict(box=box), theirs.predict(box=box))


def alike(ours: Any, theirs: Any) -> None:
    """Types, shapes and, to the tolerances above, values; most pixels of these masks are not all alike."""
    for mine, sams in zip(ours, theirs, strict=True):
        assert (mine.dtype, mine.shape) == (sams.dtype, sams.shape)
    (masks, scores, logits), (sams_masks, sams_scores, sams_logits) = ours, theirs
    if masks.dtype == bool:
        assert all(0.01 < mask.mean() < 0.99 for mask in sams_masks)
        assert all(iou(*pair) >= OVERLAP for pair in zip(masks, sams_masks, strict=True))
    else:
        assert np.abs(masks - sams_masks).max() <= LOGITS
    assert np.abs(scores - sams_scores).max() <= SCORES
    assert np.abs(logits - sams_logits).max() <= LOGITS


def test_before_an_image_there_is_a_sentence(both: tuple[pedsam.Predictor, Any]) -> None:
    ours, _ = both
    ours.set_image(photo("16:9"))
    assert ours.is_image_set
    ours.reset_image()
    assert not ours.is_image_set
    asks: list[Callable[[], object]] = [
        lambda: ours.predict(box=BOX),
        ours.get_image_embedding,
        lambda: ours.original_size,
        lambda: ours.input_size,
    ]
    for ask in asks:
        with pytest.raises(pedsam.NoImage, match="an image must be set with set_image before"):
            ask()


def test_an_image_that_fails_leaves_none(both: tuple[pedsam.Predictor, Any]) -> None:
    ours, _ = both
    ours.set_image(photo("16:9"))
    with pytest.raises(pedsam.ArgumentError):
        ours.set_image(np.zeros((9, 9), np.uint8))
    assert not ours.is_image_set


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "give point_coords with point_labels, a box, or both"),
    "mask alone": ({"mask_input": np.zeros((1, 96, 96))}, "give point_coords with point_labels, a box"),
    "no labels": ({"point_coords": POINT}, "point_coords and point_labels go together"),
    "fewer labels": ({"point_coords": POINTS, "point_labels": [1]}, r"\[3, 2\] and point_labels \[1\]"),
    "labels": ({"point_coords": POINT, "point_labels": [3]}, "point_labels are 1 for what belongs"),
    "background": ({"point_coords": POINT, "point_labels": [0]}, "only background points"),
    "boxes": ({"box": [BOX, BOX]}, r"box has the shape \[2, 4\], expected \[4\]: one object a call"),
    "a mask": ({"box": BOX, "mask_input": np.zeros((360, 640))}, r"expected \[1, 96, 96\]: the low-resol"),
    "no number": (
        {"box": BOX, "mask_input": np.full((1, 96, 96), np.nan)},
        "mask_input has values that are not finite",
    ),
    "words": ({"box": "all"}, "points, labels or box are no arrays of numbers"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_a_sentence(
    both: tuple[pedsam.Predictor, Any], arguments: dict[str, Any], words: str
) -> None:
    ours, _ = both
    ours.set_image(photo("16:9"))
    with pytest.raises(pedsam.ArgumentError, match=words):
        ours.predict(**arguments)


def test_each_predictor_has_an_image_of_its_own(session: pedsam.Session) -> None:
    first, second = session.predictor(), session.predictor()
    first.set_image(photo("16:9"))
    second.set_image(photo("portrait"))
    assert first.predict(box=BOX)[0].shape == (3, 360, 640)
    assert second.predict(box=[10, 10, 200, 300])[0].shape == (3, 480, 270)


@pytest.mark.full
def test_masks_of_vit_b_are_those_of_sam_predictor(exported: Callable[[str, str], Bundle]) -> None:
    bundle = exported("vit_b", "float32")
    with opened(bundle) as session:
        predictors = session.predictor(), sam_predictor(bundle)
        for predictor in predictors:
            predictor.set_image(photo("16:9"))
        alike(*(predictor.predict(**CALLS["both"]) for predictor in predictors))
