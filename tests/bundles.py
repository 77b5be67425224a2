"""Bundles for tests, exported once and kept between test runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from pedsam import main
from stages.bundle import PROBE_FILE, Bundle, hash_files
from stages.engine import make_engine

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
    "network.py",
    "onnxruntime_engine.py",
    "plans.py",
    "probe.py",
    "tensorrt_engine.py",
    "wire.py",
)


def exported_bundle(config: pytest.Config, model: str, dtype: str) -> Bundle:
    """A bundle of `model` with random weights whose `embedding` is `dtype`, from pytest's cache.

    An export takes 40 s for mini and minutes for vit_b; it is made again when the sources it depends on or
    torch change. Test processes that need the same bundle at once wait for one of them to export it.
    """
    cache = config.cache.mkdir("bundles")
    kept = cache / f"{model}-{dtype}-{_sources_digest()[:16]}"
    with _locked(cache / f"{model}-{dtype}.lock"):
        if not kept.exists():
            for old in cache.glob(f"{model}-{dtype}-*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            _export(model, dtype, kept)
    return Bundle.load(kept)


def _export(model: str, dtype: str, path: Path) -> None:
    """Runs the command itself; what it printed lies beside the bundle, see `export_log`."""
    arguments = ["export", "--model", model, "--random-weights", "--embedding", dtype, "--out", str(path)]
    result = CliRunner().invoke(main, arguments)
    if result.exit_code != 0:
        raise RuntimeError(result.output) from result.exception
    export_log(path).write_text(result.output)


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
