"""Weights in SAM's own block order, and MobileSAM, run unsplit by PyTorch.

A bundle is always reordered; what it should come close to, and what it was taught by, can only be measured
so. Imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.model import Model, Subject, whole_model
from export.modules import WholeStage
from export.sam import Sam, Weights
from export.stages import StagePlan, as_numpy, stage_plans
from export.tiles import TilePixels, stitched
from runtime.frames.canvas import Canvas
from stages.bundle import Stage
from stages.engines.engine import Engine
from stages.engines.thread import EngineThread
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array
from stages.tile_code import RGB, TileCode
from stages.tile_inputs import coded_canvas
from training.teachers import Teacher, load_teacher


class TorchEngine(Engine):
    """A stage of a plan, run by PyTorch on the CPU."""

    def __init__(self, plan: StagePlan, module: nn.Module) -> None:
        super().__init__(Stage(plan.name, "", {}, plan.inputs, plan.outputs, "float32"))
        self._module = module.eval()

    @property
    def backend(self) -> str:
        return f"PyTorch {torch.__version__} on CPU"

    @property
    def preferred_batch(self) -> int:
        return 1

    def _activate(self) -> None:
        """The module is ready."""

    @torch.inference_mode()
    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        results = self._module(*(torch.from_numpy(feeds[spec.name]) for spec in self.stage.inputs))
        results = results if isinstance(results, tuple) else (results,)
        found = {
            spec.name: as_numpy(spec, result)
            for spec, result in zip(self.stage.outputs, results, strict=True)
        }
        return {name: found[name] for name in outputs}

    def _deactivate(self) -> None:
        """Nothing is held beyond the module."""


def checkpoint_subject(path: Path, tiles: TileCode = RGB) -> Subject:
    """What `pedsam evaluate --checkpoint` measures, on pictures as tiles coded so. Raises CheckpointError."""
    teacher = load_teacher(path)
    weights = teacher.own or _mobile_sam(teacher, path)
    name = weights.geometry.name if teacher.own else "MobileSAM"
    order = f" ({weights.status} weights, original block order)" if teacher.own else ""
    facts = {
        "description": name + order,
        "model": name,
        "weights": weights.status,
        "trained_on": weights.trained_on,
        "site_digest": None,
    }
    return Subject(weights.geometry, facts, partial(_open, weights, teacher, tiles))


def _mobile_sam(teacher: Teacher, path: Path) -> Weights:
    """MobileSAM's decoder; its canvas and decoder are those of vit_b, whose encoder is not used."""
    return replace(
        teacher.student(GEOMETRIES["vit_b"]), status="undistilled", trained_on=f"checkpoint {path.name}"
    )


@contextlib.asynccontextmanager
async def _open(
    weights: Weights,
    teacher: Teacher,
    tiles: TileCode,
    sizes: Collection[tuple[int, int]],
    on_message: Callable[[str], None],
) -> AsyncIterator[Model]:
    async with EngineThread(_engines(weights, teacher, tiles)) as engines:
        yield whole_model(engines, partial(_whole_inputs, tiles))


def _whole_inputs(tiles: TileCode, canvas: Canvas) -> dict[str, Array]:
    return coded_canvas(tiles, canvas.geometry, canvas.pixels, canvas.extents)


def _engines(weights: Weights, teacher: Teacher, tiles: TileCode) -> dict[str, Callable[[], Engine]]:
    """The `whole` and `decoder` stages of these weights, the encoder in SAM's own block order."""
    sam, geometry = weights.sam, weights.geometry
    plans = {plan.name: plan for plan in stage_plans(sam, geometry, "float32", tiles=tiles)}
    whole, decoder = plans["whole"], plans["decoder"]
    own_order = range(geometry.depth)
    encoder = (
        WholeStage(sam, geometry, own_order, tiles)
        if teacher.own
        else OnCanvas(teacher.encoder, sam, geometry, tiles)
    )
    return {
        "whole": lambda: TorchEngine(whole, encoder),
        "decoder": lambda: TorchEngine(decoder, decoder.build()),
    }


class OnCanvas(nn.Module):
    """An encoder of normalised pixels as the stage `whole` (see WholeStage)."""

    def __init__(self, encoder: nn.Module, sam: Sam, geometry: Geometry, tiles: TileCode) -> None:
        super().__init__()
        self._encoder, self._geometry = encoder, geometry
        self._pixels = TilePixels(sam, geometry, tiles)

    def forward(self, tile: Tensor, extent: Tensor) -> Tensor:
        embedding: Tensor = self._encoder(stitched(self._pixels(tile, extent), self._geometry))
        return embedding
