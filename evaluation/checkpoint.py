"""Weights in SAM's own block order, run unsplit by PyTorch.

A bundle is always reordered; what it should come close to can only be measured so. Imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from evaluation.model import Model, Subject, whole_model
from export.modules import WholeStage
from export.sam import Weights, load_weights
from export.stages import StagePlan, as_numpy, stage_plans
from stages.bundle import Stage
from stages.engine import Engine, EngineThread
from stages.tensors import Array


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


def checkpoint_subject(path: Path) -> Subject:
    """What `pedsam evaluate --checkpoint` measures. Raises CheckpointError."""
    weights = load_weights(None, path)
    facts = {
        "description": f"{weights.geometry.name} ({weights.status} weights, original block order)",
        "model": weights.geometry.name,
        "weights": weights.status,
        "trained_on": weights.trained_on,
        "site_digest": None,
    }
    return Subject(weights.geometry, facts, partial(_open, weights))


@contextlib.asynccontextmanager
async def _open(
    weights: Weights, sizes: Collection[tuple[int, int]], say: Callable[[str], None]
) -> AsyncIterator[Model]:
    async with EngineThread(_engines(weights)) as engines:
        yield whole_model(engines)


def _engines(weights: Weights) -> dict[str, Callable[[], Engine]]:
    """The `whole` and `decoder` stages of these weights, the encoder in SAM's own block order."""
    sam, geometry = weights.sam, weights.geometry
    plans = {plan.name: plan for plan in stage_plans(sam, geometry, "float32")}
    whole, decoder = plans["whole"], plans["decoder"]
    return {
        "whole": lambda: TorchEngine(whole, WholeStage(sam, geometry, range(geometry.depth))),
        "decoder": lambda: TorchEngine(decoder, decoder.build()),
    }
