"""Bundles for tests, exported once and kept between test runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from pedsam import main
from stages.bundle import Bundle

ROOT = Path(__file__).parent.parent
# Sources of stages/ and export/ that decide nothing about what an export writes.
NOT_EXPORTED = (
    "build.py",
    "build_cli.py",
    "builder.py",
    "certificates.py",
    "devices.py",
    "engine.py",
    "network.py",
    "onnxruntime_engine.py",
    "plans.py",
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
