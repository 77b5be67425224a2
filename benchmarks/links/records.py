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
from export.projection import Projection
from export.sam import Weights, build_sam
from export.stages import StagePlan, stage_plans
from stages.bundle import EDGE_FOLDER, PADDING_FILE, PROBE_FILE, Bundle, Stage, hash_files
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.tile_code import TileCode

PROBE_TOLERANCE = {"float16": 1e-2, "int8": 3e-2}  # of rounding alone


def write_records(path: Path, model: str, tiles: str = "rgb", components: int | None = None) -> Bundle:
    """A bundle at `path` of a model by name, whose ONNX files are empty.

    `tiles` is how tiles are sent, `components` how many values a token of an embedding travels as, all by
    default. Raises InputError for a model, a code or components that there are not.
    """
    if model not in GEOMETRIES:
        raise InputError(f"{model!r:.40} is no model; expected one of {', '.join(GEOMETRIES)}")
    geometry = GEOMETRIES[model]
    components = geometry.dim if components is None else components
    if not 1 <= components <= geometry.dim:
        raise InputError(f"{components} components are not from 1 to the {geometry.dim} of {model}")
    with torch.device("meta"):  # shapes without memory
        projection = Projection(torch.zeros(geometry.dim), torch.zeros(geometry.dim, components), 1.0)
        weights = Weights(build_sam(geometry), geometry, "untrained", "records without weights", projection)
    options = ExportOptions(tiles=TileCode.parse(tiles))
    bundle = replace(empty_bundle(weights, geometry, path, options), probe_tolerance=PROBE_TOLERANCE)
    plans = stage_plans(
        weights.sam, geometry, options.embedding_dtype, tiles=options.tiles, projection=projection
    )
    bundle = replace(bundle, stages={plan.name: _record(path, plan) for plan in plans})
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
    padding = rng.standard_normal((bundle.geometry.windows, *bundle.embedding_shape))
    np.save(bundle.path / PADDING_FILE, padding.astype(bundle.embedding_dtype))
    probe = rng.standard_normal((1, *bundle.embedding_shape)).astype(np.float32)
    inputs = probe_inputs(bundle)
    np.savez(bundle.path / PROBE_FILE, **{"embedding": probe, **inputs})  # type: ignore[arg-type]
    return replace(bundle, edge_files=hash_files(bundle.path, (PADDING_FILE, PROBE_FILE)))
