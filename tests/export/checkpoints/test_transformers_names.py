"""transformers' SamModel: its weights compute here what they compute there."""

from __future__ import annotations

from pathlib import Path

import torch

from export.checkpoints.load import load_weights, read_checkpoint
from stages.geometry import GEOMETRIES
from tests.support.checkpoints import random_tensors

LAYOUT = Path(__file__).parent / "transformers_sam.tsv"  # made by benchmarks/transformers_layout.py
# What transformers' SamModel computes with these random weights, printed by that script.
EMBEDDING = [0.197244, 0.508458, 1.151303, 0.048763]
MASKS = [0.596825, -0.251225, 0.385918]


def test_it_computes_what_transformers_computes(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"model.{name}": tensor for name, tensor in random_tensors(LAYOUT).items()}},
        tmp_path / "pytorch_model.bin",
    )
    sam = load_weights(GEOMETRIES["mini"], tmp_path).sam
    pixels = torch.randn((1, 3, 384, 384), generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[[100.0, 200.0]]]), torch.tensor([[1]])
    with torch.no_grad():
        embedding = sam.image_encoder(pixels)
        sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, _ = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    torch.testing.assert_close(embedding[0, :4, 3, 5], torch.tensor(EMBEDDING), rtol=0, atol=1e-4)
    # the norms of transformers' decoder add 1e-6 to the variance, those of segment-anything 1e-5
    torch.testing.assert_close(masks[0, :, 10, 20], torch.tensor(MASKS), rtol=0, atol=5e-3)


def test_the_frequencies_may_stand_there_twice(tmp_path: Path) -> None:
    state = {"prompt_encoder.not_a_point_embed.weight": torch.ones(1)}
    for name in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
        state[f"{name}.positional_embedding"] = torch.ones(2, 128)
    torch.save(state, tmp_path / "sam.bin")
    loaded = read_checkpoint(tmp_path / "sam.bin").state
    assert set(loaded) == {
        "prompt_encoder.not_a_point_embed.weight",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    }
