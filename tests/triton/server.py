"""A real Triton Inference Server, the one inside the nvidia-pytriton package, as a process of its own.

Needs a Python environment with nvidia-pytriton 0.7.0 and onnxruntime; TRITON_PYTHON names its interpreter.
`make test-triton` sets up both.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages import wire
from stages.bundle import Stage
from stages.tensors import TensorSpec

START_S = 120.0
# Printed by the other interpreter: the package, the folder of its libpython, its version.
_ASK = (
    "import pathlib, sys, sysconfig, pytriton; print(pathlib.Path(pytriton.__file__).parent);"
    "print(sysconfig.get_config_var('LIBDIR')); print('%d.%d' % sys.version_info[:2])"
)


def interpreter() -> Path | None:
    """The Python that has Triton, or None."""
    path = os.environ.get("TRITON_PYTHON")
    return Path(path).absolute() if path else None


def model_config(stage: Stage, max_batch: int, parameters: Mapping[str, str], batching: bool = False) -> str:
    """A window stage's config.pbtxt. The edge needs the `site_digest` among its parameters.

    With `batching` requests that wait run together.
    """
    lines = [f'name: "{wire.MODEL}"', 'backend: "python"', f"max_batch_size: {max_batch}"]
    lines += ["dynamic_batching { }"] if batching else []
    lines += ["instance_group [ { kind: KIND_CPU count: 1 } ]"]
    lines += _tensors("input", stage.inputs) + _tensors("output", stage.outputs)
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}')
    return "\n".join([*lines, ""])


def _tensors(field: str, specs: Sequence[TensorSpec]) -> list[str]:
    return [
        f'{field} {{ name: "{s.name}" data_type: TYPE_{wire.OIP_NAME[s.dtype]} dims: {list(s.shape[1:])} }}'
        for s in specs
    ]


@dataclass(frozen=True)
class RunningTriton:
    """A Triton that answers at `url`. Its Python backend is a child of its process."""

    url: str
    pid: int


@contextmanager
def triton(python: Path, folder: Path, config: str) -> Iterator[RunningTriton]:
    """Serves the model of `config`; files and Triton's log lie in `folder`."""
    package, libraries, version = subprocess.check_output([python, "-c", _ASK], text=True).split("\n")[:3]
    binaries = Path(package) / "tritonserver"
    _lay_out(folder, binaries, version, config)
    port = _free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                binaries / "bin" / "tritonserver",
                f"--model-repository={folder / 'models'}",
                f"--backend-directory={folder / 'backends'}",
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
            ],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": f"{libraries}:{Path(package).parent / 'nvidia_pytriton.libs'}",
                "PATH": f"{python.parent}:{os.environ['PATH']}",  # its backend runs the first python3
            },
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, folder / "log")
            yield RunningTriton(url, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)  # it gives its port and its shared memory back


def _lay_out(folder: Path, binaries: Path, version: str, config: str) -> None:
    """A model repository and a backend folder; the backend looks for its stub beside itself."""
    backend = folder / "backends" / "python"
    shutil.copytree(binaries / "backends" / "python", backend, dirs_exist_ok=True)
    shutil.copy2(binaries / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    model = folder / "models" / wire.MODEL / wire.VERSION
    model.mkdir(parents=True)
    (model.parent / "config.pbtxt").write_text(config)
    shutil.copy2(Path(__file__).with_name("model.py"), model)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"Triton did not start: {log.read_text()[-2000:]}")
