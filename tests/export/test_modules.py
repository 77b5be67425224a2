"""The stage modules in PyTorch, held against segment_anything's: padding, decoder, every single weight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from export.decoder import DecoderStage
from export.modules import GlobalStage, WholeStage, WindowStage, quantise, reordered_encoder
from export.sam import Sam, build_sam, randomise, sam_model_registry
from stages.geometry import GEOMETRIES

MINI = GEOMETRIES["mini"]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def sam() -> Sam:
    model = build_sam(MINI)
    randomise(model)
    return model


def random_tiles(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *MINI.tile_shape), generator=generator, dtype=torch.uint8)


def all_windows(rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Window stage inputs for a random picture of rows x cols on the canvas."""
    index = torch.arange(MINI.windows, dtype=torch.int32)[:, None]
    return random_tiles(MINI.windows), index, torch.from_numpy(MINI.extents(rows, cols))


def picture_of(tiles: Tensor, rows: int, cols: int) -> Tensor:
    """Put tiles together again: float [1, 3, rows, cols]."""
    grid, side = MINI.grid, MINI.tile_px
    pixels = tiles.reshape(grid, grid, side, side, 3).permute(0, 2, 1, 3, 4).reshape(grid * side, -1, 3)
    return pixels[:rows, :cols].permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_geometry_is_that_of_the_registry(name: str) -> None:
    geometry = GEOMETRIES[name]
    with torch.device("meta"):
        encoder = sam_model_registry[name]().image_encoder
    assert encoder.img_size == geometry.image_size
    assert encoder.pos_embed.shape == (1, geometry.tokens, geometry.tokens, geometry.dim)
    assert len(encoder.blocks) == geometry.depth
    assert encoder.patch_embed.proj.kernel_size == (geometry.patch, geometry.patch)
    for i, block in enumerate(encoder.blocks):
        assert block.window_size == (0 if i in geometry.global_blocks else geometry.window)
        assert block.attn.num_heads == geometry.heads
        positions = 2 * (geometry.tokens if i in geometry.global_blocks else geometry.window) - 1
        assert len(block.attn.rel_pos_h) == positions


def test_random_weights_are_nowhere_zero(sam: Sam) -> None:
    for name, tensor in sam.state_dict().items():
        assert (tensor != 0).all(), name


@pytest.mark.parametrize("size", [(384, 384), (216, 384), (384, 250), (333, 201)])
def test_window_embeddings_equal_segment_anythings_window_blocks(sam: Sam, size: tuple[int, int]) -> None:
    """Each token after the window blocks, windows of the canvas edge and beyond included, to 1e-5."""
    tiles, index, extent = all_windows(*size)
    embedding = WindowStage(sam, MINI, torch.float32).encode(tiles, index, extent)

    encoder = sam.image_encoder
    x = encoder.patch_embed(sam.preprocess(picture_of(tiles, *size))) + encoder.pos_embed
    for i in MINI.window_blocks:
        x = encoder.blocks[i](x)

    side = MINI.grid * MINI.window
    joined = embedding.reshape(MINI.grid, MINI.grid, MINI.window, MINI.window, -1)
    joined = joined.permute(0, 2, 1, 3, 4).reshape(side, side, -1)
    assert torch.allclose(joined[: MINI.tokens, : MINI.tokens], x[0], atol=1e-5 * x.abs().max())
    assert (joined[MINI.tokens :] == 0).all()
    assert (joined[:, MINI.tokens :] == 0).all()


def test_padded_tokens_are_deselected_not_multiplied(sam: Sam) -> None:
    """Infinity in a padded token must not reach the others: multiplying it by zero would make NaN of all."""
    stage = WindowStage(sam, MINI, torch.float32)
    corner = (random_tiles(1), torch.tensor([[MINI.windows - 1]]), torch.tensor([[30, 30]]))
    clean = stage.encode(*corner)
    on_canvas = stage._on_canvas(corner[1])
    assert 0 < on_canvas.sum() < on_canvas.numel()
    poisoned = torch.where(on_canvas[0], stage.positions[-1], torch.full_like(stage.positions[-1], torch.inf))
    stage.positions = torch.cat([stage.positions[:-1], poisoned[None]])
    assert torch.equal(stage.encode(*corner), clean)


def test_padding_matters_enough_to_be_tested(sam: Sam) -> None:
    """Without zeroing after norm1 the corner's embedding is off by far more than the tolerances above."""

    class Unpadded(WindowStage):
        def _on_canvas(self, index: Tensor) -> Tensor:
            return torch.ones_like(super()._on_canvas(index))

    corner = (random_tiles(1), torch.tensor([[MINI.windows - 1]]), torch.tensor([[30, 30]]))
    stage = WindowStage(sam, MINI, torch.float32)
    right, wrong = stage.encode(*corner), Unpadded(sam, MINI, torch.float32).encode(*corner)
    inside = stage._on_canvas(corner[1]).expand_as(right)
    assert (right - wrong)[inside].abs().max() > 0.1


def test_a_window_depends_on_its_own_pixels_alone(sam: Sam) -> None:
    stage = WindowStage(sam, MINI, torch.float32)
    tiles, index, extent = all_windows(384, 384)
    alone = stage.encode(tiles[7:8], index[7:8], extent[7:8])
    assert torch.allclose(stage.encode(tiles, index, extent)[7:8], alone, atol=1e-4)


def test_pixels_beyond_the_extent_do_not_matter(sam: Sam) -> None:
    stage = WindowStage(sam, MINI, torch.float32)
    tile, index, extent = random_tiles(1), torch.tensor([[6]]), torch.tensor([[33, 41]])
    other = tile.clone()
    other[:, 33:], other[:, :, 41:] = 255, 7
    assert torch.equal(stage.encode(tile, index, extent), stage.encode(other, index, extent))


def test_whole_and_chain_equal_the_reordered_encoder() -> None:
    model = build_sam(MINI)
    randomise(model, seed=3)
    tiles, index, extent = all_windows(384, 301)
    chain = GlobalStage(model, MINI)(WindowStage(model, MINI, torch.float32).encode(tiles, index, extent))
    canvas = torch.zeros((1, 384, 384, 3), dtype=torch.uint8)
    canvas[0, :, :301] = picture_of(tiles, 384, 301)[0].permute(1, 2, 0)
    whole = WholeStage(model, MINI)(canvas, torch.tensor([[384, 301]]))
    reference = reordered_encoder(model.image_encoder, MINI)(model.preprocess(picture_of(tiles, 384, 301)))
    assert torch.allclose(chain, reference, atol=5e-5)
    assert torch.allclose(whole, reference, atol=5e-5)


def test_quantisation_is_within_half_a_step() -> None:
    x = torch.randn(3, 5, 5, 192) * torch.logspace(-3, 3, 5)[None, :, None, None]
    x[0, 0, 0] = 0
    values, scale = quantise(x)
    assert values.dtype == torch.int8
    assert scale.dtype == torch.float16
    error = (values.float() * scale.float() - x).abs()
    assert (error <= 0.5001 * scale.float() + 1e-6).all()
    assert (values[0, 0, 0] == 0).all()


def decoder_example() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    side, mask = MINI.tokens, MINI.mask_px
    return (
        torch.randn((1, 256, side, side), generator=generator),
        torch.rand((2, 4, 2), generator=generator) * MINI.image_size,
        torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 1.0, -1.0]]),
        torch.randn((2, 1, mask, mask), generator=generator),
        torch.tensor([[1.0], [0.0]]),
    )


def test_decoder_equals_segment_anythings_with_and_without_an_earlier_mask(sam: Sam) -> None:
    embedding, coords, labels, mask, has_mask = decoder_example()
    masks, iou = DecoderStage(sam)(embedding, coords, labels, mask, has_mask)
    boxed = sam.prompt_encoder((coords[:1, :2], labels[:1, :2]), coords[:1, 2:].reshape(1, 4), mask[:1])
    pointed = sam.prompt_encoder((coords[1:, :3], labels[1:, :3]), None, None)
    # segment_anything pads with a point at 0,0; ours carries whatever lies under label -1
    for row, (sparse, dense) in enumerate((boxed, pointed)):
        expected = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        assert torch.allclose(masks[row : row + 1], expected[0], atol=1e-4)
        assert torch.allclose(iou[row : row + 1], expected[1], atol=1e-4)


def _part(name: str) -> str:
    """Which stage holds the tensor `name` of a SAM's state dict."""
    kind, *rest = name.split(".")
    if kind != "image_encoder":
        return "decoder"
    late = rest[0] == "neck" or (rest[0] == "blocks" and int(rest[1]) in MINI.global_blocks)
    return "global" if late else "window"


def _output(sam: Sam, part: str) -> Tensor:
    """What one stage makes of a small fixed input; built anew, so that tables it cuts are cut again."""
    if part == "window":
        stage = WindowStage(sam, MINI, torch.float32)
        return stage.encode(random_tiles(1), torch.tensor([[0]]), torch.tensor([[80, 80]]))
    if part == "global":
        embedding = torch.randn(
            (MINI.windows, *MINI.embedding_shape), generator=torch.Generator().manual_seed(5)
        )
        return GlobalStage(sam, MINI).forward(embedding)
    masks, iou = DecoderStage(sam).forward(*decoder_example())
    return torch.cat([masks.flatten(), iou.flatten()])


def test_every_weight_tensor_matters(sam: Sam) -> None:
    """All but the key biases of the decoder, which softmax cancels: they add one number to a query's row."""
    generator = torch.Generator().manual_seed(6)
    before = {part: _output(sam, part) for part in ("window", "global", "decoder")}
    indifferent = set()
    for name, tensor in sam.state_dict().items():
        kept = tensor.clone()
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        change = (_output(sam, _part(name)) - before[_part(name)]).abs().max()
        tensor.copy_(kept)
        if not change > 1e-5:
            indifferent.add(name)
    assert indifferent == {name for name in sam.state_dict() if name.endswith("k_proj.bias")}
