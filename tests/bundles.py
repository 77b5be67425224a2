"""Bundles for tests, exported once and kept between test runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from pedsam import main
from stages.bundle import PROBE_FILE, Bundle, hash_files
from stages.engine import make_engine
from stages.geometry import GEOMETRIES

ROOT = Path(__file__).parent.parent
# Sources of stages/ and export/ that decide nothing about what an export writes.
NOT_EXPORTED = (
    "build.py",
    "build_cli.py",
    "builder.py",
    "certificates.py",
    "devices.py",
    "engine.py",
    "errors.py",
    "json_header.py",
    "memory.py",
    "network.py",
    "onnxruntime_engine.py",
    "plans.py",
    "probe.py",
    "tensorrt_engine.py",
    "wire.py",
)


def exported_bundle(config: pytest.Config, model: str, dtype: str) -> Bundle:
    """A bundle of `model` with random weights whose `embedding` is `dtype`, from pytest's cache.

    An export takes 40 s for mini and minutes for vit_b.
    """
    return _kept(config, f"{model}-{dtype}", partial(_export, model, dtype))


def graph_bundle(config: pytest.Config, model: str, precision: str) -> Bundle:
    """Window, global and decoder of `model` with random weights in a precision, from pytest's cache.

    Its graphs are written as an export writes them, and nothing else: no parity, no probe. That takes 20 to
    30 s.
    """
    return _kept(config, f"{model}-graphs-{precision}", partial(_write_graphs, model, precision))


def _kept(config: pytest.Config, name: str, write: Callable[[Path], None]) -> Bundle:
    """The bundle `name` of the cache; `write` makes it at a path, and again when sources or torch change.

    Test processes that need the same bundle at once wait for one of them to make it.
    """
    cache = config.cache.mkdir("bundles")
    kept = cache / f"{name}-{_sources_digest()[:16]}"
    with _locked(cache / f"{name}.lock"):
        if not kept.exists():
            for old in cache.glob(f"{name}-*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            write(kept)
    return Bundle.load(kept)


def _export(model: str, dtype: str, path: Path) -> None:
    """Runs the command itself; what it printed lies beside the bundle, see `export_log`."""
    arguments = ["export", "--model", model, "--random-weights", "--embedding", dtype, "--out", str(path)]
    result = CliRunner().invoke(main, arguments)
    if result.exit_code != 0:
        raise RuntimeError(result.output) from result.exception
    export_log(path).write_text(result.output)


def _write_graphs(model: str, precision: str, path: Path) -> None:
    from export.exporter import ExportOptions, empty_bundle, write_stage  # torch takes seconds to import
    from export.precision import stage_precisions
    from export.sam import Weights, build_sam, randomise
    from export.stages import stage_plans

    geometry = GEOMETRIES[model]
    sam = build_sam(geometry)
    randomise(sam)
    options = ExportOptions(precisions=stage_precisions([precision]))
    unfinished = path.with_name(f".{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    weights = Weights(sam, geometry, "untrained", "random numbers")
    bundle = empty_bundle(weights, geometry, unfinished, options)
    for plan in stage_plans(sam, geometry, options.embedding_dtype, options.precisions):
        if plan.name != "whole":
            bundle = write_stage(bundle, plan, plan.build())
    bundle.save()
    unfinished.rename(path)


def export_log(path: Path) -> Path:
    """Where the export of the bundle at `path` left what it printed."""
    return path.with_name(path.name + ".log")


def other_weights(bundle: Bundle, path: Path) -> Bundle:
    """A copy at `path` of a bundle's window stage with other weights, and its own digest and probe."""
    shutil.copytree(bundle.path / "window", path / "window")
    shutil.copytree(bundle.path / "edge", path / "edge")
    _halve_weights(path / "window/model.onnx")
    stage = replace(bundle.stage("window"), files=hash_files(path, bundle.stage("window").files))
    changed = replace(bundle, path=path, stages={"window": stage})
    _write_probe(changed, bundle)
    replace(changed, edge_files=hash_files(path, bundle.edge_files)).save()
    return Bundle.load(path)


def _halve_weights(model: Path) -> None:
    """Halve every fourth of the floats beside a model."""
    data = model.with_name(model.name + ".data")
    stored = np.fromfile(data, np.uint8)
    initializers = onnx.load(model, load_external_data=False).graph.initializer
    for tensor in [t for t in initializers if t.data_type == onnx.TensorProto.FLOAT and t.external_data][::4]:
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place["offset"]), int(place["length"])
        stored[start : start + length].view(np.float32)[:] *= 0.5
    stored.tofile(data)


def _write_probe(bundle: Bundle, like: Bundle) -> None:
    """What the window stage of `bundle` answers to the probe of `like`."""
    inputs = like.probe().inputs
    with closing(make_engine(bundle, "window", threads=1)) as engine:
        engine.open()
        embedding = engine.infer(inputs, ["embedding"])["embedding"].astype(np.float32)
    np.savez(bundle.path / PROBE_FILE, **{"embedding": embedding, **inputs})  # type: ignore[arg-type]


def _sources_digest() -> str:
    digest = hashlib.sha256(version("torch").encode())
    for path in sorted([*ROOT.glob("export/*.py"), *ROOT.glob("stages/*.py")]):
        if path.name not in NOT_EXPORTED:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
