"""The table of stages: which module, which tensors, which examples to export and compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from export.decoder import DecoderStage
from export.layers import lowered
from export.modules import GlobalStage, WholeStage, WindowStage
from export.precision import DTYPES, FP32
from export.projection import Projection
from export.sam import Sam
from stages.geometry import Geometry
from stages.tensors import Pixels, TensorSpec
from stages.tile_code import RGB, TileCode
from stages.tile_inputs import coded_canvas


@dataclass(frozen=True)
class StagePlan:
    """What to export as one stage: `build` makes the module, `examples` its inputs for tracing and parity.

    `precision` is the one matrix products compute in; a module of a lower one is a copy of its layers.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    build: Callable[[], nn.Module]
    examples: Callable[[torch.Generator], tuple[Tensor, ...]]
    precision: str = "fp32"


def stage_plans(
    sam: Sam,
    geometry: Geometry,
    embedding_dtype: str,
    precisions: Mapping[str, str] = FP32,
    tiles: TileCode = RGB,
    projection: Projection | None = None,
) -> tuple[StagePlan, ...]:
    """Plans of all stages in the order a frame meets them, each in its own precision.

    Raises InputError for a code of tiles that this geometry's do not fit.
    """
    plans = (
        _window(sam, geometry, embedding_dtype, tiles, projection),
        _global(sam, geometry, embedding_dtype, projection),
        _decoder(sam, geometry),
        _whole(sam, geometry, tiles, projection),
    )
    return tuple(_in_precision(plan, precisions[plan.name]) for plan in plans)


def _in_precision(plan: StagePlan, precision: str) -> StagePlan:
    dtype = getattr(torch, DTYPES[precision])
    return replace(plan, build=lambda: lowered(plan.build(), dtype), precision=precision)


def _embedding_shape(g: Geometry, projection: Projection | None) -> tuple[int, int, int]:
    """See Geometry.embedding_shape."""
    return g.embedding_shape(projection.components if projection else g.dim)


def _window(
    sam: Sam, g: Geometry, embedding_dtype: str, tiles: TileCode, projection: Projection | None
) -> StagePlan:
    rows, cols, components = _embedding_shape(g, projection)
    inputs = (
        TensorSpec("tile", "uint8", ("n", tiles.tile_bytes(g))),
        TensorSpec("index", "int32", ("n", 1), (0, g.windows - 1)),
        TensorSpec("extent", "int32", ("n", 4), (0, g.tile_px)),
    )
    outputs = (
        TensorSpec("embedding", embedding_dtype, ("n", rows, cols, components)),
        TensorSpec("embedding_q8", "int8", ("n", rows, cols, components)),
        TensorSpec("scale", "float16", ("n", rows, cols, 1)),
    )

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        # An inner window, one cut by the canvas edge, and the corner with part of a picture.
        windows = (0, g.grid - 1, g.windows - 1)
        canvas = _canvas(generator, g)
        extents = np.array(
            [[0, 0, g.tile_px, g.tile_px], [0, 0, g.tile_px, g.tile_px - 7], [1, 2, 21, 18]], np.int32
        ).clip(0, g.tile_px)
        tile = torch.from_numpy(tiles.encode(canvas, extents, windows, g))
        return tile, torch.tensor(windows, dtype=torch.int32)[:, None], torch.from_numpy(extents)

    return StagePlan(
        "window",
        inputs,
        outputs,
        lambda: WindowStage(sam, g, getattr(torch, embedding_dtype), tiles, projection),
        examples,
    )


def _global(sam: Sam, g: Geometry, embedding_dtype: str, projection: Projection | None) -> StagePlan:
    shape = (g.windows, *_embedding_shape(g, projection))
    embedding = TensorSpec("embedding", embedding_dtype, shape)

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(shape, generator=generator).to(getattr(torch, embedding_dtype)),)

    return StagePlan(
        "global", (embedding,), (_image_embedding(g),), lambda: GlobalStage(sam, g, projection), examples
    )


def _decoder(sam: Sam, g: Geometry) -> StagePlan:
    mask = g.mask_px
    inputs = (
        _image_embedding(g),
        TensorSpec("point_coords", "float32", ("p", "k", 2)),
        TensorSpec("point_labels", "float32", ("p", "k")),
        TensorSpec("mask_input", "float32", ("p", 1, mask, mask)),
        TensorSpec("has_mask_input", "float32", ("p", 1)),
    )
    outputs = (
        TensorSpec("low_res_masks", "float32", ("p", 4, mask, mask)),
        TensorSpec("iou", "float32", ("p", 4)),
    )

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (
            torch.randn((1, g.prompt_dim, g.tokens, g.tokens), generator=generator),
            torch.rand((2, 3, 2), generator=generator) * g.image_size,
            torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]]),
            torch.randn((2, 1, mask, mask), generator=generator),
            torch.tensor([[1.0], [0.0]]),
        )

    return StagePlan("decoder", inputs, outputs, lambda: DecoderStage(sam), examples)


def _whole(sam: Sam, g: Geometry, tiles: TileCode, projection: Projection | None) -> StagePlan:
    inputs = (
        TensorSpec("tile", "uint8", (g.windows, tiles.tile_bytes(g))),
        TensorSpec("extent", "int32", (g.windows, 4), (0, g.tile_px)),
    )

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        extents = g.extents(g.image_size, g.image_size - 21)
        inputs = coded_canvas(tiles, g, _canvas(generator, g), extents)
        return torch.from_numpy(inputs["tile"]), torch.from_numpy(inputs["extent"])

    return StagePlan(
        "whole",
        inputs,
        (_image_embedding(g),),
        lambda: WholeStage(sam, g, tiles=tiles, projection=projection),
        examples,
    )


def _image_embedding(g: Geometry) -> TensorSpec:
    return TensorSpec("image_embedding", "float32", (1, g.prompt_dim, g.tokens, g.tokens))


def _canvas(generator: torch.Generator, g: Geometry) -> Pixels:
    """Picture-like noise: coarse structure under fine grain, so that neither averages away.

    RGB uint8 [grid * S, grid * S, 3].
    """
    size = g.grid * g.tile_px
    coarse = torch.rand((-(-size // 8), -(-size // 8), 3), generator=generator)
    coarse = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[:size, :size]
    fine = torch.rand((size, size, 3), generator=generator)
    pixels: Pixels = ((0.8 * coarse + 0.2 * fine) * 255).to(torch.uint8).numpy()
    return pixels


def as_numpy(spec: TensorSpec, tensor: Tensor) -> np.ndarray:
    """A tensor as the array an engine takes: right dtype, C order."""
    return np.ascontiguousarray(tensor.numpy(), dtype=spec.dtype)
