"""Write one stage module as ONNX with its weights beside it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from export.compact import store_as_fp16
from stages.tensors import TensorSpec

OPSET = 20
INLINE_BYTES = 2**21  # of a tensor that may lie in a graph's own file, where another graph's hold no equal
_EXPORTER_LOGS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def write_onnx(
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
    compact: bool = False,
) -> list[Path]:
    """Export `module` to `path` and `path`.data; axes named in `inputs` stay dynamic.

    `compact` stores the weights of a model from `round_weights` as fp16. Returns the files written. Traces of
    the exporting machine (paths, source lines) are removed, so the same weights give the same bytes.
    """
    path.parent.mkdir(parents=True)
    axes = {
        axis: torch.export.Dim(axis, min=1) for spec in inputs for axis in spec.shape if isinstance(axis, str)
    }
    shapes = tuple(
        {i: axes[axis] for i, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in inputs
    )
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(examples),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=shapes if axes else None,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    if compact:
        store_as_fp16(program.model)
    program.save(path, external_data=True)
    _strip_traces(path)
    return [path, path.with_name(path.name + ".data")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports each of its steps and deprecations of its own code; errors still come through."""
    levels = {name: logging.getLogger(name).level for name in _EXPORTER_LOGS}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _strip_traces(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    _strip(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def share_weights(graph: Path, other: Path, out: Path) -> None:
    """Write `graph` as `out`, its weights read from where `other`, a graph in the same folder as `out`, keeps
    them.

    What `other` does not hold, byte for byte, lies in `out` itself. Raises RuntimeError where that is large:
    two graphs of one model hold the same weights, or there is something wrong.
    """
    model, kept = onnx.load(graph), _external_tensors(other)
    for tensor in model.graph.initializer:
        found = kept.get(hashlib.sha256(tensor.raw_data).digest())
        if found is not None:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.extend(found)
        elif tensor.ByteSize() > INLINE_BYTES:
            raise RuntimeError(f"{other} holds no weights equal to {tensor.name} of {graph}")
    out.write_bytes(model.SerializeToString(deterministic=True))


def _external_tensors(graph: Path) -> Mapping[bytes, Sequence[onnx.StringStringEntryProto]]:
    """Where a graph keeps each of its tensors outside of itself, by the hash of its bytes."""
    found = {}
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with (graph.parent / place["location"]).open("rb") as file:
                file.seek(int(place.get("offset", 0)))
                found[hashlib.sha256(file.read(int(place["length"]))).digest()] = list(tensor.external_data)
    return found
