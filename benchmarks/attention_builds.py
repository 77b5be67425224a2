"""What engines make of each way to compute SAM's attention: TensorRT's builder, and onnxruntime on a CPU.

    python -m benchmarks.attention_builds --out benchmarks/results/attention_builds.json

One attention of vit_b, of a global block and of 25 windows, with random weights. TensorRT for RTX builds
it in fp16 without a GPU and tells the layers of its plan: how many kernels run, which of them are fused
attention, and the bytes of all that they read and write. onnxruntime runs it in fp32 on one thread and is
measured by the processor's time, least of some rounds in turn, which other programs disturb least. `cores`
are the same for the products and softmax of 256 queries alone, with kernels of onnxruntime that fuse them.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks.attention_forms import FORMS, Form
from benchmarks.machine import describe
from export.engines.builder import RTX
from export.layers import TABLES, lowered
from export.onnx_files import write_onnx
from export.sam import build_sam
from stages.engines.onnxruntime_engine import library, open_session
from stages.engines.tensorrt_engine import error_logger, tensorrt_library
from stages.geometry import GEOMETRIES
from stages.tensors import Array, TensorSpec

MODEL, ROUNDS = "vit_b", 7
TARGETS = ("sm_86", "sm_89")
BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int64": 8, "Int32": 4, "Int8": 1, "Bool": 1}
_TENSOR = re.compile(r"Name: \S+, Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")
_LAYER = re.compile(r"^Name: (?P<name>\S+), LayerType: (?P<type>\w+), Inputs:(?P<tensors>.*)$", re.MULTILINE)
NO_KERNELS = ("signal", "wait")  # between streams

Row = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
Nodes = list[tuple[str, str]]  # ("Operator", "inputs output")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Write the graphs, build and run them, and keep what was found."""
    trt = tensorrt_library(RTX)
    machine = describe() | {"torch": torch.__version__, RTX: trt.__version__}
    found: Row = {"machine": machine, "model": MODEL, "cores": list(cores())}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for stage in ("global", "window"):
            found[stage] = list(_stage(trt, stage, Path(folder)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(found, indent=1))


def _stage(trt: Any, stage: str, folder: Path) -> Iterator[Row]:
    """Each form of one stage's attention, built for each target and run."""
    geometry = GEOMETRIES[MODEL]
    block, side, n = {
        "global": (geometry.global_blocks[0], geometry.tokens, 1),
        "window": (geometry.window_blocks[0], geometry.window, geometry.windows),
    }[stage]
    layer = build_sam(geometry).image_encoder.blocks[block].attn
    torch.manual_seed(0)
    for name in TABLES:
        getattr(layer, name).data.normal_(0, 0.1)
    x = torch.randn(n, side, side, geometry.dim)
    built, sessions = {}, {}
    for i, (name, form) in enumerate(FORMS.items()):
        low = write_attention(lowered(layer, torch.float16), form, x, folder / f"{stage}-{i}-fp16")
        built[name] = {sm: figures(trt, low, sm) for sm in TARGETS}
        sessions[name] = open_session(write_attention(layer, form, x, folder / f"{stage}-{i}"), threads=1)
    times = race({name: partial(run.run, None, {"x": x.numpy()}) for name, run in sessions.items()})
    for name in FORMS:
        yield {"form": name, **built[name], "cpu_ms": times[name]}


class _Attention(nn.Module):
    def __init__(self, layer: Any, form: Form) -> None:
        super().__init__()
        self.attn, self.form = layer, form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.attn, x)


def write_attention(layer: Any, form: Form, x: Tensor, folder: Path) -> Path:
    """The graph of an attention of x, fp32 [n, h, w, D], as an export writes it."""
    specs = [TensorSpec(name, "float32", tuple(x.shape)) for name in ("x", "y")]
    return write_onnx(_Attention(layer, form), [x], specs[:1], specs[1:], folder / "model.onnx")[0]


# TensorRT's builder


def built_layers(trt: Any, path: Path, sm: str) -> tuple[list[Row], int]:
    """Layers of the plan that TensorRT for RTX builds of a graph, each with its name, type and bytes of the
    tensors it reads and writes; and the bytes of its activations."""
    lines: list[str] = []
    logger = error_logger(trt, lines.append)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, sm.upper().replace("_", "")), 0)
    if not parser.parse_from_file(str(path)) or builder.build_serialized_network(network, config) is None:
        raise RuntimeError(f"{path} is not built: {logger.reason()}")
    log = "\n".join(lines)  # an engine can be asked for its layers only on a GPU, the builder logs them
    activations = re.search(r"Total Activation Memory: (\d+)", log)
    layers = [
        {"name": each["name"], "type": each["type"], "bytes": list(_sizes(each["tensors"]))}
        for each in _LAYER.finditer(log)
    ]
    return layers, int(activations[1]) if activations else 0


def _sizes(tensors: str) -> Iterator[int]:
    for dims, dtype in _TENSOR.findall(tensors):
        yield math.prod(int(size) for size in dims.split(",") if size) * BYTES[dtype]


def fused(layer: Row) -> bool:
    """Whether a layer is attention in one kernel."""
    return str(layer["name"]).startswith("_gemm_mha")


def figures(trt: Any, path: Path, sm: str) -> Row:
    """What the plan of a graph is made of, in MB."""
    layers, activations = built_layers(trt, path, sm)
    kernels = [layer for layer in layers if layer["type"] not in NO_KERNELS]
    return {
        "kernels": len(kernels),
        "fused_attention": sum(map(fused, kernels)),
        "moved_mb": round(sum(sum(layer["bytes"]) for layer in kernels) / 1e6, 1),
        "largest_mb": round(max(size for layer in kernels for size in layer["bytes"]) / 1e6, 1),
        "activations_mb": round(activations / 1e6, 1),
    }


# onnxruntime on a CPU


def race(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Least milliseconds of processor time of each call, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - started))
    return {name: round(min(each), 2) for name, each in times.items()}


def cores(queries: int = 256) -> Iterator[Row]:
    """Products and softmax of some queries of a global block, with the same inputs; milliseconds of all."""
    g = GEOMETRIES[MODEL]
    heads, d, side, keys = g.heads, g.dim // g.heads, g.tokens, g.tokens**2
    wide = d + 2 * side
    plain = [("MatMul", "q k s"), ("Softmax", "s p"), ("MatMul", "p v y")]
    added = [("MatMul", "q k s"), ("Add", "h w p5"), ("Reshape", "p5 scores p4"), ("Add", "s p4 t")]
    twice = [("MatMul", "q k s"), ("Reshape", "s places s5"), ("Add", "s5 h s6"), ("Add", "s6 w s7")]
    four: Shapes = {"q": (1, heads, queries, d), "k": (1, heads, keys, d), "v": (1, heads, keys, d)}
    turned: Shapes = {**four, "k": (1, heads, d, keys)}
    positions: Shapes = {"h": (1, heads, queries, side, 1), "w": (1, heads, queries, 1, side)}
    rows: Shapes = {"q": (1, queries, heads * d), "k": (1, keys, heads * d), "v": (1, keys, heads * d)}
    bias: Shapes = {"b": (1, heads, queries, keys)}
    ends = [("Softmax", "t p"), ("MatMul", "p v y")]
    cases: dict[str, tuple[Nodes, Shapes]] = {
        "no positions": (plain, turned),
        "positions added": ([*added, *ends], turned | positions),
        "positions added one after another": (
            [*twice, ("Reshape", "s7 scores t"), *ends],
            turned | positions,
        ),
        "positions in the product": (
            plain,
            turned | {"q": (1, heads, queries, wide), "k": (1, heads, wide, keys)},
        ),
        "Attention, positions given as mask": ([("Attention", "q k v b y")], four | bias),
        "Attention, positions in the product": (
            [("Attention", "q k v y")],
            four | {"q": (1, heads, queries, wide), "k": (1, heads, keys, wide)},
        ),
        "MultiHeadAttention, positions given as bias": (
            [("MultiHeadAttention", "q k v - - b y")],
            rows | bias,
        ),
        "MultiHeadAttention, positions in the product": (
            [("MultiHeadAttention", "q k v y")],
            rows | {"q": (1, queries, heads * wide), "k": (1, keys, heads * wide)},
        ),
    }
    shapes = {"scores": (1, heads, queries, keys), "places": (1, heads, queries, side, side)}
    calls = {name: _core(nodes, inputs, shapes, heads) for name, (nodes, inputs) in cases.items()}
    for name, milliseconds in race(calls).items():
        yield {"core": name, "cpu_ms_of_4096_queries": round(milliseconds * keys / queries)}


def _core(nodes: Nodes, inputs: Shapes, shapes: Shapes, heads: int) -> Callable[[], Any]:
    """A call of a graph of nodes on random numbers."""
    made = []
    for operator, names in nodes:
        *read, written = ["" if name == "-" else name for name in names.split()]
        more: Row = {"axis": -1} if operator == "Softmax" else {}
        if operator.endswith("Attention"):
            more = {"scale": 1.0}
        if operator == "MultiHeadAttention":
            more |= {"num_heads": heads, "domain": "com.microsoft"}
        made.append(helper.make_node(operator, read, [written], **more))
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, shape in inputs.items()]
    constants = [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(made, "core", values, result, constants)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = library().SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = library().InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {
        name: 0.1 * generator.standard_normal(shape, np.float32) for name, shape in inputs.items()
    }
    return partial(session.run, None, feeds)


if __name__ == "__main__":
    main()
