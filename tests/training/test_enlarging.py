"""A larger model that begins with a smaller one's weights: mini's own, as they are shipped."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from export.checkpoints.load import load_weights
from export.modules import reordered_encoder
from export.sam import Weights, build_sam
from runtime.demo.demo import photo
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import TileCode
from tests.support.training import SHORT, TINY, invoke
from training.enlarging import enlarged

SHIPPED = Path(__file__).parents[2] / "assets/mini.safetensors"
SMALL = GEOMETRIES["small"]


@pytest.fixture(scope="module")
def mini() -> Weights:
    return load_weights(None, SHIPPED)


@pytest.fixture(scope="module")
def small(mini: Weights) -> Weights:
    return enlarged(mini, SMALL)


@torch.no_grad()
def embedding(weights: Weights) -> Tensor:
    """Of the astronaut on the model's canvas, blocks reordered: [1, 256, E, E]."""
    geometry, encoder = weights.geometry, copy.deepcopy(weights.sam.image_encoder)
    picture = torch.from_numpy(np.array(photo("astronaut"))).permute(2, 0, 1)[None].float()
    pixels = (picture - weights.sam.pixel_mean) / weights.sam.pixel_std
    reordered_encoder(encoder, geometry)
    found: Tensor = encoder(F.interpolate(pixels, (geometry.image_size,) * 2, mode="area"))
    return found


def test_a_wider_model_begins_with_what_the_smaller_one_computes(mini: Weights) -> None:
    """On the same canvas with the same windows, to 2 % of the embedding; 0.9 % was measured."""
    wider = enlarged(mini, replace(mini.geometry, name="wider", dim=256, heads=4))
    expected = embedding(mini)
    assert (embedding(wider) - expected).norm() < 0.02 * expected.norm()


def test_small_begins_near_what_mini_computes(mini: Weights, small: Weights) -> None:
    """On a larger canvas, with windows that see more of it: cosine over 0.95; 0.96 was measured."""
    expected = F.interpolate(embedding(mini), (SMALL.tokens,) * 2, mode="bilinear")
    alike = F.cosine_similarity(embedding(small).flatten(2), expected.flatten(2))
    assert alike.mean() > 0.95


def test_nothing_that_was_there_before_reads_a_new_channel(mini: Weights, small: Weights) -> None:
    old, new = (weights.sam.image_encoder.state_dict() for weights in (mini, small))
    for name in ("blocks.3.mlp.lin1.weight", "blocks.3.attn.proj.weight", "neck.0.weight"):
        rows, columns = old[name].shape[:2]
        assert torch.equal(new[name][:rows, :columns], old[name]), name
        assert not new[name][:rows, columns:].any(), name
    assert new["blocks.3.mlp.lin1.weight"][4 * mini.geometry.dim :].any()  # and the new ones can learn


def test_positions_are_interpolated(mini: Weights, small: Weights) -> None:
    old, new = (weights.sam.image_encoder.state_dict() for weights in (mini, small))
    table, dim = new["pos_embed"], mini.geometry.dim
    assert not table[..., dim:].any()
    middle = F.avg_pool2d(table[..., :dim].permute(0, 3, 1, 2), 4) - F.avg_pool2d(
        old["pos_embed"].permute(0, 3, 1, 2), 3
    )  # both a table of 8 x 8
    assert middle.norm() < 0.1 * table.norm() / 4
    for name in ("blocks.0.attn.rel_pos_h", "blocks.2.attn.rel_pos_w"):  # of a window, of the canvas
        steps = [len(state[name]) // 2 for state in (old, new)]
        for end in (0, 1, 2):
            assert torch.allclose(new[name][end * steps[1]], old[name][end * steps[0]], atol=1e-6), name


def test_the_code_of_tiles_is_kept_and_the_projection_is_not(mini: Weights, small: Weights) -> None:
    assert mini.projection is not None  # of mini's own channels
    assert (small.tiles, small.projection) == (TileCode.parse("dct:15/6"), None)
    assert (small.geometry, small.status) == (SMALL, "undistilled")
    assert small.trained_on == f"{mini.trained_on}, enlarged to small"


def test_the_decoder_and_a_model_of_the_same_size_stay_as_they_are(mini: Weights, small: Weights) -> None:
    same = enlarged(mini, replace(mini.geometry, name="same")).sam.state_dict()
    larger = small.sam.state_dict()
    for name, tensor in mini.sam.state_dict().items():
        assert torch.equal(same[name], tensor), name
        if not name.startswith("image_encoder."):
            assert torch.equal(larger[name], tensor), name


@pytest.mark.parametrize(
    "other",
    [
        replace(TINY, name="other", patch=8),
        replace(TINY, name="other", depth=5),
        replace(TINY, name="other", global_blocks=(0, 3)),
        replace(TINY, name="other", dim=48),  # heads twice as wide
        replace(TINY, name="other", dim=16, heads=2),
        replace(TINY, name="other", image_size=64),
    ],
    ids=["patches", "depth", "global blocks", "heads", "narrower", "a smaller canvas"],
)
def test_a_model_that_cannot_begin_so_is_refused(other: Geometry) -> None:
    weights = Weights(build_sam(TINY), TINY, "distilled", "a test")
    with pytest.raises(InputError, match=r"^tiny weights cannot start other: it needs those of other, or "):
        enlarged(weights, other)


def test_the_command_starts_small_from_mini(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    given = ("train", "--model", "small", "--init", SHIPPED, "--data", pairs, "--no-hints", *SHORT)
    done = invoke(*given, "--out", out)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert f"small starts from the mini weights in {SHIPPED}, enlarged" in said
    assert "training with dct:15/6 tiles, as in the weights that it starts from" in said
    weights = load_weights(SMALL, out)
    assert (weights.status, weights.tiles.name, weights.projection) == ("distilled", "dct:15/6", None)


def test_the_command_does_not_start_mini_from_small(pairs: Path, tmp_path: Path) -> None:
    init = SHIPPED.with_name("small.safetensors")
    done = invoke(
        "train", "--model", "mini", "--init", init, "--data", pairs, "--out", tmp_path / "m.safetensors"
    )
    assert done.exit_code == 1
    assert "small weights cannot start mini: it needs those of mini, or of a smaller" in " ".join(
        done.output.split()
    )
