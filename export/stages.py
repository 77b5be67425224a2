"""The table of stages: which module, which tensors, which examples to export and compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from export.decoder import DecoderStage
from export.head import Head
from export.layers import lowered
from export.modules import GlobalStage, HeadStage, RestStage, WholeStage, WindowStage
from export.precision import DTYPES, FP32
from export.projection import Projection
from export.sam import Sam
from export.streaming import AttendStage, FinishStage, ProjectStage
from stages.geometry import Geometry
from stages.hidden import FORMS, HEAD
from stages.streaming import ATTEND, FINISH, PROJECT, part_tensors
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
    head: Head | None = None,
) -> tuple[StagePlan, ...]:
    """Plans of all stages in the order a frame meets them, each in its own precision.

    With a `head` the stage "head" is one of them, and "window" begins after it; `tiles` are RGB then. Raises
    InputError for a code of tiles that this geometry's do not fit.
    """
    plans = (
        *([_head(sam, geometry, head)] if head else []),
        _rest(sam, geometry, embedding_dtype, head, projection)
        if head
        else _window(sam, geometry, embedding_dtype, tiles, projection),
        _global(sam, geometry, embedding_dtype, projection),
        _decoder(sam, geometry),
        _whole(sam, geometry, tiles, projection, head),
    )
    return tuple(_in_precision(plan, precisions[plan.name]) for plan in plans)


def _in_precision(plan: StagePlan, precision: str) -> StagePlan:
    dtype = getattr(torch, DTYPES[precision])
    return replace(plan, build=lambda: lowered(plan.build(), dtype), precision=precision)


def _embedding_shape(g: Geometry, projection: Projection | None) -> tuple[int, int, int]:
    """See Geometry.embedding_shape."""
    return g.embedding_shape(projection.components if projection else g.dim)


def _head(sam: Sam, g: Geometry, head: Head) -> StagePlan:
    return StagePlan(
        HEAD,
        _tile_inputs(g, RGB),
        head.hidden(g).specs(g),
        lambda: HeadStage(sam, g, head),
        lambda generator: _tile_examples(generator, g, RGB),
    )


def _rest(
    sam: Sam, g: Geometry, embedding_dtype: str, head: Head, projection: Projection | None
) -> StagePlan:
    hidden, *scale = head.hidden(g).specs(g)

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        index, shape = _example_windows(g), (3, *map(int, hidden.shape[1:]))
        if scale:
            values = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            sizes = 0.01 + 0.02 * torch.rand((*shape[:-1], 1), generator=generator)
            return values, index, sizes.half()
        return torch.randn(shape, generator=generator).to(getattr(torch, FORMS[head.form])), index

    return StagePlan(
        "window",
        (hidden, _index(g), *scale),
        _embedding_outputs(g, embedding_dtype, projection),
        lambda: RestStage(sam, g, getattr(torch, embedding_dtype), head, projection),
        examples,
    )


def _window(
    sam: Sam, g: Geometry, embedding_dtype: str, tiles: TileCode, projection: Projection | None
) -> StagePlan:
    return StagePlan(
        "window",
        _tile_inputs(g, tiles),
        _embedding_outputs(g, embedding_dtype, projection),
        lambda: WindowStage(sam, g, getattr(torch, embedding_dtype), tiles, projection),
        lambda generator: _tile_examples(generator, g, tiles),
    )


def _tile_inputs(g: Geometry, tiles: TileCode) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tile", "uint8", ("n", tiles.tile_bytes(g))),
        _index(g),
        TensorSpec("extent", "int32", ("n", 4), (0, g.tile_px)),
    )


def _index(g: Geometry) -> TensorSpec:
    return TensorSpec("index", "int32", ("n", 1), (0, g.windows - 1))


def _embedding_outputs(
    g: Geometry, embedding_dtype: str, projection: Projection | None
) -> tuple[TensorSpec, ...]:
    rows, cols, components = _embedding_shape(g, projection)
    return (
        TensorSpec("embedding", embedding_dtype, ("n", rows, cols, components)),
        TensorSpec("embedding_q8", "int8", ("n", rows, cols, components)),
        TensorSpec("scale", "float16", ("n", rows, cols, 1)),
    )


def _example_windows(g: Geometry) -> Tensor:
    """An inner window, one cut by the canvas edge, and the corner: index int32 [3, 1]."""
    return torch.tensor((0, g.grid - 1, g.windows - 1), dtype=torch.int32)[:, None]


def _tile_examples(generator: torch.Generator, g: Geometry, tiles: TileCode) -> tuple[Tensor, ...]:
    """Of the example windows; the corner has part of a picture."""
    index = _example_windows(g)
    canvas = _canvas(generator, g)
    extents = np.array(
        [[0, 0, g.tile_px, g.tile_px], [0, 0, g.tile_px, g.tile_px - 7], [1, 2, 21, 18]], np.int32
    ).clip(0, g.tile_px)
    tile = torch.from_numpy(tiles.encode(canvas, extents, index[:, 0].tolist(), g))
    return tile, index, torch.from_numpy(extents)


def _global(sam: Sam, g: Geometry, embedding_dtype: str, projection: Projection | None) -> StagePlan:
    shape = (g.windows, *_embedding_shape(g, projection))
    embedding = TensorSpec("embedding", embedding_dtype, shape)

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(shape, generator=generator).to(getattr(torch, embedding_dtype)),)

    return StagePlan(
        "global", (embedding,), (_image_embedding(g),), lambda: GlobalStage(sam, g, projection), examples
    )


def streaming_plans(
    sam: Sam, g: Geometry, embedding_dtype: str, precision: str, projection: Projection | None = None
) -> tuple[StagePlan, ...]:
    """Plans of the global stage's parts (export.streaming), in its precision: "fp32" or "fp16"."""
    whole = _global(sam, g, embedding_dtype, projection)
    modules: Mapping[str, Callable[[], nn.Module]] = {
        PROJECT: lambda: ProjectStage(sam, g, projection),
        ATTEND: lambda: AttendStage(sam, g),
        FINISH: lambda: FinishStage(sam, g),
    }
    return tuple(
        _in_precision(_part(name, build, g, whole, DTYPES[precision]), precision)
        for name, build in modules.items()
    )


def _part(name: str, build: Callable[[], nn.Module], g: Geometry, whole: StagePlan, dtype: str) -> StagePlan:
    inputs, outputs = part_tensors(name, g, whole.inputs[0], whole.outputs[0], dtype)

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(_part_example(spec, generator, g) for spec in inputs)

    return StagePlan(name, inputs, outputs, build, examples)


def _part_example(spec: TensorSpec, generator: torch.Generator, g: Geometry) -> Tensor:
    """Of the last row of windows, part of which lies beyond the canvas, as keys; a total is above zero."""
    last = (g.grid - 1) * g.window
    if spec.dtype == "int32":
        return torch.tensor([last] if spec.name == "row" else [g.window, last], dtype=torch.int32)
    values = torch.randn([int(axis) for axis in spec.shape], generator=generator)
    return (1 + values.abs() if spec.name == "total" else values).to(getattr(torch, spec.dtype))


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


def _whole(
    sam: Sam, g: Geometry, tiles: TileCode, projection: Projection | None, head: Head | None
) -> StagePlan:
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
        lambda: WholeStage(sam, g, tiles=tiles, projection=projection, head=head),
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
