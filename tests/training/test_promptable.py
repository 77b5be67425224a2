"""The model that is trained computes what segment_anything's does, on any size of picture."""

from __future__ import annotations

import torch

from export.sam import build_sam, randomise
from tests.support.training import TINY
from training.promptable import Promptable


def test_a_promptable_computes_what_sam_does() -> None:
    sam = build_sam(TINY)
    randomise(sam)
    pixels = torch.randn(2, 3, 80, 80)
    coords, labels = torch.tensor([[[10.0, 20.0], [60.0, 70.0]]] * 2), torch.tensor([[2.0, 3.0]] * 2)
    model = Promptable(sam).eval()
    with torch.no_grad():
        embedding, _ = model.encode(pixels)
        assert torch.allclose(embedding, sam.image_encoder(pixels), atol=1e-5)
        masks, iou = model.decode(embedding, coords, labels, None)
        sparse, dense = sam.prompt_encoder(points=None, boxes=coords.reshape(2, 4), masks=None)
        expected, rated = [], []
        for n in range(2):
            low, rate = sam.mask_decoder.predict_masks(
                embedding[n : n + 1], sam.prompt_encoder.get_dense_pe(), sparse[n : n + 1], dense[n : n + 1]
            )
            expected.append(low)
            rated.append(rate)
    assert torch.allclose(masks, torch.cat(expected), atol=1e-4)
    assert torch.allclose(iou, torch.cat(rated), atol=1e-4)


def test_a_smaller_picture_takes_coordinates_in_its_own_pixels() -> None:
    sam = build_sam(TINY)
    randomise(sam)
    model = Promptable(sam).eval()
    with torch.no_grad():
        embedding, tokens = model.encode(torch.randn(1, 3, 32, 32))
        assert embedding.shape == (1, 256, 2, 2)
        assert tokens.shape == (1, 24, 2, 2)
        corners = torch.tensor([[[-0.5, -0.5], [31.5, 31.5]]])  # those of the canvas, whatever its size
        labels = torch.tensor([[2.0, 3.0]])
        seen = []
        model._decoder.decode = lambda keys, pe, tokens: (seen.append(tokens), (keys, keys))[1]  # type: ignore
        model.decode(embedding, corners, labels, None)
        whole = model._decoder.tokens(torch.tensor([[[-0.5, -0.5], [79.5, 79.5]]]), labels)
    assert torch.allclose(seen[0], whole, atol=1e-5)


def test_activations_computed_twice_give_the_same_gradients() -> None:
    found = []
    for low_memory in (False, True):
        torch.manual_seed(0)
        model = Promptable(build_sam(TINY), low_memory)
        model.encode(torch.ones(1, 3, 80, 80))[0].square().sum().backward()  # type: ignore[no-untyped-call]
        found.append(model.sam.image_encoder.patch_embed.proj.weight.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)
