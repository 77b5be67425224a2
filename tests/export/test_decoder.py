"""The decoder stage computes what segment_anything's does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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


def test_what_depends_on_the_image_alone_is_projected_once_for_all_objects() -> None:
    """In the first block; from the second on the image has met each object."""
    sam = random_weights(MINI).sam
    first, second = sam.mask_decoder.transformer.layers
    rows: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, inputs: rows.update({name: len(inputs[0])})

    for number, block in enumerate((first, second)):
        to_image, to_tokens = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        for part, layer in {"k": to_image.k_proj, "v": to_image.v_proj, "q": to_tokens.q_proj}.items():
            layer.register_forward_pre_hook(note(f"{part}{number}"))
    inputs = decoder_example(MINI)
    DecoderStage(sam)(*inputs)
    objects = len(inputs[1])
    assert objects > 1
    assert rows == {"k0": 1, "v0": 1, "q0": 1, "k1": objects, "v1": objects, "q1": objects}
