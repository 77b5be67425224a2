"""Bundles for tests, exported once and kept between test runs."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from stages.bundle import PROBE_FILE, SHIPPED, Bundle, hash_files
from stages.engines.backends import make_engine
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import TileCode

if TYPE_CHECKING:
    from export.sam import Weights

ROOT = Path(__file__).parents[2]
# Sources that decide what an export writes. Not among them: stages/engines, which reads it back to check it.
EXPORTING = (
    "export/*.py",
    "export/checks/*.py",
    "stages/bundle.py",
    "stages/geometry.py",
    "stages/hidden.py",
    "stages/probe.py",
    "stages/streaming.py",
    "stages/tensors.py",
    "stages/tile_code.py",
    "stages/tile_inputs.py",
    "tests/support/bundles.py",
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "segment-anything")
_NO_PATH = str.maketrans(":/", "--")
TINY = Geometry("tiny", 80, 16, 2, 24, 3, 2, (1,))  # 9 windows, one window block, one global: 20 s to export
SPLIT_TINY = Geometry("tiny", 80, 16, 2, 24, 3, 4, (3,))  # with three window blocks, for a head


def exported_bundle(config: pytest.Config, model: str, dtype: str) -> Bundle:
    """A bundle of `model` with random weights whose `embedding` is `dtype`, from pytest's cache.

    An export takes 40 s of CPU time for mini and minutes for vit_b.
    """
    return _kept(config, f"{model}-{dtype}", partial(_export, model, dtype))


def tiny_bundle(config: pytest.Config, kind: str) -> Bundle:
    """A bundle of TINY with random weights in a precision, "compact", or with tiles coded as "dct:L/C", from
    pytest's cache.

    "fp16-8" has embeddings of 8 components, "float32-8" too, in fp32.
    """
    return _kept(config, f"tiny-{kind.translate(_NO_PATH)}", partial(_export_tiny, kind))


def graph_bundle(config: pytest.Config, model: str, precision: str, tiles: str = "rgb") -> Bundle:
    """Window, global and decoder of `model` with random weights, in a precision and a code, from the cache.

    Its graphs are written as an export writes them, and nothing else: no parity, no probe.
    """
    name = f"{model}-graphs-{precision}-{tiles.translate(_NO_PATH)}"
    return _kept(config, name, partial(_write_graphs, model, precision, tiles))


def tiny_head_bundle(config: pytest.Config) -> Bundle:
    """A bundle of SPLIT_TINY whose first two window blocks run at the edge; hidden states travel as 16
    components in int8, embeddings in fp32. From pytest's cache."""
    return _kept(config, "tiny-head", _export_tiny_head)


def mini_head_bundle(config: pytest.Config, plain: Bundle) -> Bundle:
    """The weights of `plain`, mini's, with two window blocks at the edge and hidden states in fp16.

    Nothing is checked. From pytest's cache; stages that are the same are those of `plain`.
    """
    return _kept(config, "mini-head", partial(_write_mini_head, plain))


def tiny_streaming_bundle(config: pytest.Config, kind: str) -> Bundle:
    """TINY with the parts of its global stage, from pytest's cache: a bundle in "fp32"; the global stage and
    its parts alone in "fp16" or "compact"."""
    return _kept(config, f"tiny-streaming-{kind}", partial(_export_tiny_streaming, kind))


def mini_streaming_bundle(config: pytest.Config) -> Bundle:
    """The mini that is shipped, with the parts of its global stage. From pytest's cache."""
    return _kept(config, "mini-streaming", _write_mini_streaming)


def _export_tiny_streaming(kind: str, path: Path) -> None:
    import torch

    from export.compact import round_weights
    from export.exporter import ExportOptions, add_parts, empty_bundle, export_bundle, write_stage
    from export.precision import stage_precisions
    from export.stages import stage_plans

    weights, compact = random_weights(TINY), kind == "compact"
    if kind == "fp32":
        options = ExportOptions("float32", streaming=True)
        export_bundle(weights, TINY, path, options, lambda line: None)
        return
    options = ExportOptions(compact=compact, precisions=stage_precisions([] if compact else [kind]))
    if compact:
        weights = replace(weights, sam=round_weights(weights.sam))
    path.mkdir()
    bundle = empty_bundle(weights, TINY, path, options)
    for plan in stage_plans(weights.sam, TINY, "float16", options.precisions):
        if plan.name in ("window", "global"):
            bundle = write_stage(bundle, plan, plan.build(), compact)
    with torch.no_grad():
        add_parts(bundle, weights, lambda line: None, options).save()


def _write_mini_streaming(path: Path) -> None:
    _python("-c", f"from tests.support.bundles import write_mini_streaming as f; f({str(path)!r})")


def write_mini_streaming(path: str) -> None:
    """What `mini_streaming_bundle` keeps."""
    from export.checkpoints.bundle_weights import weights_of
    from export.exporter import write_part
    from export.stages import streaming_plans

    kept = Path(path)
    unfinished = kept.with_name(f".{kept.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(SHIPPED, unfinished)
    bundle = Bundle.load(unfinished)
    weights = weights_of(SHIPPED)
    for plan in streaming_plans(weights.sam, weights.geometry, "float16", "fp32", weights.projection):
        bundle = write_part(bundle, plan, plan.build().eval(), compact=True)
    bundle.save()
    unfinished.rename(kept)


def _export_tiny_head(path: Path) -> None:
    from export.exporter import ExportOptions, export_bundle

    options = ExportOptions("float32", head_blocks=2, hidden="int8", hidden_components=16)
    export_bundle(random_weights(SPLIT_TINY), SPLIT_TINY, path, options, lambda line: None)


def _write_mini_head(plain: Bundle, path: Path) -> None:
    module = "from tests.support.bundles import write_mini_head"
    _python("-c", f"{module}; write_mini_head({str(plain.path)!r}, {str(path)!r})")


def write_mini_head(plain: str, path: str) -> None:
    """What `mini_head_bundle` keeps."""
    from export.exporter import ExportOptions, add_edge_files, empty_bundle, write_stage
    from export.head import Head
    from export.stages import stage_plans

    given, kept = Bundle.load(plain), Path(path)
    weights, head = random_weights(given.geometry), Head(2, "fp16")
    unfinished = kept.with_name(f".{kept.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    bundle = empty_bundle(weights, given.geometry, unfinished, ExportOptions(), head)
    for plan in stage_plans(weights.sam, given.geometry, "float16", head=head):
        if plan.name in ("head", "window"):
            bundle = write_stage(bundle, plan, plan.build())
        else:
            shutil.copytree(given.path / plan.name, unfinished / plan.name)
            bundle = replace(bundle, stages={**bundle.stages, plan.name: given.stage(plan.name)})
    add_edge_files(bundle).save()
    unfinished.rename(kept)


def _kept(config: pytest.Config, name: str, write: Callable[[Path], None]) -> Bundle:
    """The bundle `name` of the cache; `write` makes it at a path, and again when sources or torch change.

    Test processes that need the same bundle at once wait for one of them to make it.
    """
    cache = config.cache.mkdir("bundles")
    kept = cache / f"{name}-{_sources_digest()[:16]}"
    with _locked(cache / f"{name}.lock"):
        if not kept.exists():
            for old in cache.glob(f"{name}-{'[0-9a-f]' * 16}*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            write(kept)
    return Bundle.load(kept)


def _export(model: str, dtype: str, path: Path) -> None:
    """Runs the command itself; what it printed lies beside the bundle, see `export_log`."""
    options = ["--model", model, "--random-weights", "--embedding", dtype, "--out", str(path)]
    export_log(path).write_text(_python("-m", "pedsam", "export", *options))


def _python(*arguments: str) -> str:
    """What Python prints, in a process of its own: vit_b takes gigabytes, which a test process would keep."""
    line = [sys.executable, *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def _export_tiny(kind: str, path: Path) -> None:
    from export.exporter import ExportOptions, export_bundle  # torch takes seconds to import
    from export.precision import stage_precisions

    form, _, components = kind.partition("-")
    held = int(components) if components else None
    if form in ("compact", "float32"):
        options = ExportOptions("float32", compact=form == "compact", components=held)
    elif form.startswith("dct"):
        options = ExportOptions("float32", tiles=TileCode.parse(form), components=held)
    else:
        options = ExportOptions(precisions=stage_precisions([form]), components=held)
    export_bundle(random_weights(TINY), TINY, path, options, lambda line: None)


def _write_graphs(model: str, precision: str, tiles: str, path: Path) -> None:
    module = "from tests.support.bundles import write_graphs"
    _python("-c", f"{module}; write_graphs({model!r}, {precision!r}, {tiles!r}, {str(path)!r})")


def write_graphs(model: str, precision: str, tiles: str, path: str) -> None:
    """What `graph_bundle` keeps."""
    from export.exporter import ExportOptions, empty_bundle, write_stage
    from export.precision import stage_precisions
    from export.stages import stage_plans

    kept, geometry = Path(path), GEOMETRIES[model]
    weights = random_weights(geometry)
    options = ExportOptions(precisions=stage_precisions([precision]), tiles=TileCode.parse(tiles))
    unfinished = kept.with_name(f".{kept.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    bundle = empty_bundle(weights, geometry, unfinished, options)
    plans = stage_plans(weights.sam, geometry, options.embedding_dtype, options.precisions, options.tiles)
    for plan in plans:
        if plan.name != "whole":
            bundle = write_stage(bundle, plan, plan.build())
    bundle.save()
    unfinished.rename(kept)


def random_weights(geometry: Geometry) -> Weights:
    """The random weights that test bundles have, the same ones each time."""
    from export.sam import Weights, build_sam, randomise

    sam = build_sam(geometry)
    randomise(sam)
    return Weights(sam, geometry, "untrained", "random numbers")


def export_log(path: Path) -> Path:
    """Where the export of the bundle at `path` left what it printed."""
    return path.with_name(path.name + ".log")


def other_weights(bundle: Bundle, path: Path) -> Bundle:
    """A copy at `path` of a bundle's window stage with other weights, and its own digest and probe."""
    shutil.copytree(bundle.path / "window", path / "window")
    shutil.copytree(bundle.path / "edge", path / "edge")
    _halve_largest(path / "window/model.onnx")
    stage = replace(bundle.stage("window"), files=hash_files(path, bundle.stage("window").files))
    changed = replace(bundle, path=path, stages={"window": stage})
    _write_probe(changed, bundle)
    replace(changed, edge_files=hash_files(path, bundle.edge_files)).save()
    return Bundle.load(path)


def _halve_largest(model: Path) -> None:
    """Halve the largest weight tensor of a stage, in place."""
    tensors = [
        tensor
        for tensor in onnx.load(model, load_external_data=False).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.external_data
    ]
    largest = max(tensors, key=lambda tensor: math.prod(tensor.dims))
    lies = {entry.key: entry.value for entry in largest.external_data}
    shape = tuple(largest.dims)
    weights = np.memmap(f"{model}.data", np.float32, "r+", int(lies["offset"]), shape)
    weights *= 0.5
    weights.flush()


def _write_probe(bundle: Bundle, like: Bundle) -> None:
    """What the window stage of `bundle` answers to the probe of `like`."""
    inputs = like.probe().inputs
    with closing(make_engine(bundle, "window", threads=1)) as engine:
        engine.open()
        embedding = engine.infer(inputs, ["embedding"])["embedding"].astype(np.float32)
    np.savez(bundle.path / PROBE_FILE, **{"embedding": embedding, **inputs})  # type: ignore[arg-type]


@cache  # a run that has begun goes on with what its sources were
def _sources_digest() -> str:
    digest = hashlib.sha256(" ".join(map(version, EXPORTERS)).encode())
    for path in sorted(path for pattern in EXPORTING for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + code_of(path.read_text("utf-8")).encode())
    return digest.hexdigest()


def code_of(source: str) -> str:
    """What a Python source does: its syntax tree without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
