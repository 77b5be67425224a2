"""A bundle without weights and graphs: the records of its stages, and what an edge reads before it begins.

Engines of fixed latency need no more, and a line does not care what the numbers are. So a model of full size
is measured without the minutes and gigabytes of its export.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from export.exporter import ExportOptions, empty_bundle, probe_inputs
from export.sam import Weights, build_sam
from export.stages import StagePlan, stage_plans
from stages.bundle import EDGE_FOLDER, PADDING_FILE, PROBE_FILE, Bundle, Stage, hash_files
from stages.errors import InputError
from stages.geometry import GEOMETRIES


def write_records(path: Path, model: str) -> Bundle:
    """A bundle at `path` of a model by name, whose ONNX files are empty.

    Raises InputError for an unknown one.
    """
    if model not in GEOMETRIES:
        raise InputError(f"{model!r:.40} is no model; expected one of {', '.join(GEOMETRIES)}")
    geometry = GEOMETRIES[model]
    with torch.device("meta"):  # shapes without memory
        weights = Weights(build_sam(geometry), geometry, "untrained", "records without weights")
    options = ExportOptions()
    bundle = empty_bundle(weights, geometry, path, options)
    plans = stage_plans(weights.sam, geometry, options.embedding_dtype)
    bundle = replace(
        bundle, stages={plan.name: _record(path, plan) for plan in plans if plan.name != "whole"}
    )
    bundle = _with_edge_files(bundle)
    bundle.save()
    return Bundle.load(path)


def _record(path: Path, plan: StagePlan) -> Stage:
    file = f"{plan.name}/model.onnx"
    (path / plan.name).mkdir(parents=True)
    (path / file).touch()
    return Stage(plan.name, file, hash_files(path, [file]), plan.inputs, plan.outputs, plan.precision)


def _with_edge_files(bundle: Bundle) -> Bundle:
    """Random embeddings of padding and of the probe, since an answer is compared with it."""
    (bundle.path / EDGE_FOLDER).mkdir()
    rng = np.random.default_rng(0)
    shape = bundle.geometry.embedding_shape
    padding = rng.standard_normal((bundle.geometry.windows, *shape))
    np.save(bundle.path / PADDING_FILE, padding.astype(bundle.embedding_dtype))
    probe = rng.standard_normal((1, *shape)).astype(np.float32)
    inputs = probe_inputs(bundle.geometry)
    np.savez(bundle.path / PROBE_FILE, **{"embedding": probe, **inputs})  # type: ignore[arg-type]
    return replace(bundle, edge_files=hash_files(bundle.path, (PADDING_FILE, PROBE_FILE)))
