"""The decoder stage computes what segment_anything's does."""

from __future__ import annotations

import pytest
import torch

from export.decoder import DecoderStage
from stages.geometry import GEOMETRIES
from tests.export.examples import decoder_example
from tests.support.bundles import random_weights

MINI = GEOMETRIES["mini"]
pytestmark = pytest.mark.usefixtures("no_grad")


def test_decoder_equals_segment_anythings_with_and_without_an_earlier_mask() -> None:
    sam = random_weights(MINI).sam
    embedding, coords, labels, mask, has_mask = decoder_example(MINI)
    masks, iou = DecoderStage(sam)(embedding, coords, labels, mask, has_mask)
    boxed = sam.prompt_encoder((coords[:1, :2], labels[:1, :2]), coords[:1, 2:].reshape(1, 4), mask[:1])
    pointed = sam.prompt_encoder((coords[1:, :3], labels[1:, :3]), None, None)
    # segment_anything pads with a point at 0,0; ours carries whatever lies under label -1
    for row, (sparse, dense) in enumerate((boxed, pointed)):
        expected = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        assert torch.allclose(masks[row : row + 1], expected[0], atol=1e-4)
        assert torch.allclose(iou[row : row + 1], expected[1], atol=1e-4)
