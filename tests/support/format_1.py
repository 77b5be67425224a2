"""A bundle as pedsam exported them before format 2, made from one of format 2 that is not coded."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.bundle import PROBE_FILE, Bundle, hash_files
from stages.engines.backends import make_engine
from stages.tensors import TensorSpec


def as_format_1(bundle: Bundle, path: Path) -> Bundle:
    """A copy at `path` whose window stage takes pixels [n, S, S, 3] and rows and columns of picture [n, 2].

    The graph computes what it did. It has no stage `whole`, whose inputs were of another form too.
    """
    for part in ("window", "global", "decoder", "edge"):
        shutil.copytree(bundle.path / part, path / part)
    window, side = bundle.stage("window"), bundle.geometry.tile_px
    _take_pixels(path / window.file, side)
    inputs = tuple(
        {
            "tile": TensorSpec("tile", "uint8", ("n", side, side, 3)),
            "extent": TensorSpec("extent", "int32", ("n", 2), (0, side)),
        }.get(spec.name, spec)
        for spec in window.inputs
    )
    stage = replace(window, inputs=inputs, files=hash_files(path, window.files))
    stages = {**{name: each for name, each in bundle.stages.items() if name != "whole"}, "window": stage}
    changed = replace(bundle, path=path, format=1, stages=stages)
    probe = dict(bundle.probe().inputs)
    probe["tile"], probe["extent"] = probe["tile"].reshape(-1, side, side, 3), probe["extent"][:, 2:]
    with closing(make_engine(changed, "window", threads=1)) as engine:
        engine.open()
        embedding = engine.infer(probe, ["embedding"])["embedding"].astype(np.float32)
    np.savez(path / PROBE_FILE, **{"embedding": embedding, **probe})  # type: ignore[arg-type]
    replace(changed, edge_files=hash_files(path, bundle.edge_files)).save()
    return Bundle.load(path)


def _take_pixels(model: Path, side: int) -> None:
    """Turn inputs of format 1 into those of format 2 ahead of all else in a graph, in place."""
    graph = (whole := onnx.load(model, load_external_data=False)).graph
    for node in graph.node:
        node.input[:] = [{"tile": "flat_tile", "extent": "four_sides"}.get(name, name) for name in node.input]
    kept = [value for value in graph.input if value.name not in ("tile", "extent")]
    del graph.input[:]
    graph.input.extend(
        [
            helper.make_tensor_value_info("tile", TensorProto.UINT8, ["n", side, side, 3]),
            helper.make_tensor_value_info("extent", TensorProto.INT32, ["n", 2]),
            *kept,
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), "flat_shape"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 0, 0], np.int64), "two_before"))
    nodes = [
        helper.make_node("Reshape", ["tile", "flat_shape"], ["flat_tile"]),
        helper.make_node("Pad", ["extent", "two_before"], ["four_sides"]),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(whole, model)
