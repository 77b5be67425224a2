"""The stage modules in PyTorch, compared with segment_anything's: padding, windows, every single weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from export.decoder import DecoderStage
from export.layers import lowered
from export.modules import GlobalStage, WholeStage, WindowStage, reordered_encoder
from export.projection import Project, Projection, fit_projection
from export.quantise import quantise
from export.sam import Sam, build_sam, randomise
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import RGB
from tests.export.examples import decoder_example
from tests.support.bundles import TINY, random_weights

MINI = GEOMETRIES["mini"]

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_weights(MINI).sam


def random_tiles(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, RGB.tile_bytes(MINI)), generator=generator, dtype=torch.uint8)


def all_windows(rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Window stage inputs for a random picture of rows x cols on the canvas."""
    index = torch.arange(MINI.windows, dtype=torch.int32)[:, None]
    return random_tiles(MINI.windows), index, torch.from_numpy(MINI.extents(rows, cols))


def picture_of(tiles: Tensor, rows: int, cols: int) -> Tensor:
    """Put tiles together again: float [1, 3, rows, cols]."""
    grid, side = MINI.grid, MINI.tile_px
    pixels = tiles.reshape(grid, grid, side, side, 3).permute(0, 2, 1, 3, 4).reshape(grid * side, -1, 3)
    return pixels[:rows, :cols].permute(2, 0, 1)[None].float()


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
    corner = (random_tiles(1), torch.tensor([[MINI.windows - 1]]), torch.tensor([[0, 0, 30, 30]]))
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

    corner = (random_tiles(1), torch.tensor([[MINI.windows - 1]]), torch.tensor([[0, 0, 30, 30]]))
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
    tile, index, extent = random_tiles(1), torch.tensor([[6]]), torch.tensor([[3, 5, 33, 41]])
    other = tile.clone()
    pixels = other.view(80, 80, 3)
    pixels[:3], pixels[33:], pixels[:, :5], pixels[:, 41:] = 9, 255, 1, 7
    pixels[3:33, 5:41] = tile.view(80, 80, 3)[3:33, 5:41]
    assert torch.equal(stage.encode(tile, index, extent), stage.encode(other, index, extent))


@pytest.mark.parametrize("components", [None, 64])
def test_whole_and_chain_equal_the_reordered_encoder(components: int | None) -> None:
    model = build_sam(MINI)
    randomise(model, seed=3)
    tiles, index, extent = all_windows(384, 301)
    projection = random_projection(MINI, components) if components else None
    embedding = WindowStage(model, MINI, torch.float32, RGB, projection).encode(tiles, index, extent)
    assert embedding.shape[-1] == (components or MINI.dim)
    chain = GlobalStage(model, MINI, projection)(embedding)
    whole = WholeStage(model, MINI, projection=projection)(tiles, extent)
    encoder = reordered_encoder(model.image_encoder, MINI, projection)
    reference = encoder(model.preprocess(picture_of(tiles, 384, 301)))
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


def random_projection(geometry: Geometry, components: int) -> Projection:
    tokens = torch.randn((4 * geometry.dim, geometry.dim), generator=torch.Generator().manual_seed(4))
    return fit_projection([tokens + 0.5], components)


def test_components_are_those_of_the_embedding_and_zero_off_the_canvas(sam: Sam) -> None:
    """By select after the projection, which makes -mean @ basis of the zeros of a token off the canvas."""
    projection, inputs = random_projection(MINI, 48), all_windows(216, 384)
    stage = WindowStage(sam, MINI, torch.float16, RGB, projection)
    found = stage.encode(*inputs)
    expected = Project(projection)(WindowStage(sam, MINI, torch.float32).encode(*inputs))
    on_canvas = stage._on_canvas(inputs[1]).expand_as(found)
    assert torch.allclose(found[on_canvas], expected[on_canvas], atol=1e-5 * expected.abs().max())
    assert (found[~on_canvas] == 0).all()
    assert expected[~on_canvas].abs().max() > 1e-3
    embedding, values, scale = stage(*inputs)
    assert embedding.shape == values.shape == (MINI.windows, 5, 5, 48)
    assert (embedding[~on_canvas] == 0).all()
    assert (values[~on_canvas] == 0).all()
    assert torch.allclose(values * scale.float(), found, atol=float(0.51 * scale.max()))


def test_stages_of_fp16_project_in_fp32() -> None:
    """`lowered` leaves it alone: its product is small, and what it rounds would be in every token."""
    sam, projection = random_weights(TINY).sam, random_projection(TINY, 8)
    window = lowered(WindowStage(sam, TINY, torch.float16, RGB, projection), torch.float16)
    last = lowered(GlobalStage(sam, TINY, projection), torch.float16)
    for part in (window.get_submodule("project"), last.get_submodule("restore")):
        assert {buffer.dtype for buffer in part.buffers()} == {torch.float32}
        assert not list(part.parameters())


def _part(name: str) -> str:
    """Which stage holds the tensor `name` of a SAM's state dict."""
    kind, *rest = name.split(".")
    if kind != "image_encoder":
        return "decoder"
    late = rest[0] == "neck" or (rest[0] == "blocks" and int(rest[1]) in TINY.global_blocks)
    return "global" if late else "window"


def _output(sam: Sam, part: str, projection: Projection | None = None) -> Tensor:
    """What one stage of TINY makes of a fixed input; built anew, so that tables it cuts are cut again."""
    generator = torch.Generator().manual_seed(5)
    if part == "window":
        tile = torch.randint(0, 256, (1, RGB.tile_bytes(TINY)), generator=generator, dtype=torch.uint8)
        whole_tile = torch.tensor([[0, 0, TINY.tile_px, TINY.tile_px]])
        stage = WindowStage(sam, TINY, torch.float32, RGB, projection)
        return stage.encode(tile, torch.tensor([[0]]), whole_tile)
    if part == "global":
        components = projection.components if projection else TINY.dim
        shape = (TINY.windows, TINY.window, TINY.window, components)
        return GlobalStage(sam, TINY, projection).forward(torch.randn(shape, generator=generator))
    if part == "whole":
        size = (TINY.windows, RGB.tile_bytes(TINY))
        tiles = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        extents = torch.from_numpy(TINY.extents(TINY.image_size, TINY.image_size))
        whole: Tensor = WholeStage(sam, TINY, projection=projection)(tiles, extents)
        return whole
    masks, iou = DecoderStage(sam).forward(*decoder_example(TINY))
    return torch.cat([masks.flatten(), iou.flatten()])


def test_every_weight_tensor_matters() -> None:
    """All but the key biases of the decoder, which softmax cancels: they add one number to a query's row."""
    sam = random_weights(TINY).sam
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


@pytest.mark.parametrize("part", ["window", "global", "whole"])
@pytest.mark.parametrize("name", ["mean", "basis"])
def test_every_tensor_of_the_projection_matters(part: str, name: str) -> None:
    sam, projection = random_weights(TINY).sam, random_projection(TINY, 8)
    before = _output(sam, part, projection)
    tensor = getattr(projection, name)
    tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(6)))
    assert (_output(sam, part, projection) - before).abs().max() > 1e-3
