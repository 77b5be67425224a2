"""onnxruntime-gpu small enough to travel: its wheel with the device code of one architecture, and of that
without the kernels that SAM's stages never start.

    python -m benchmarks.gpu_wheel --wheel onnxruntime_gpu-1.31.1-...whl --out .gpu/3/onnxruntime_gpu-...whl

What is left out is overwritten with zeros, which compress to nothing: CUDA loads a kernel's module when the
kernel is first used, so modules that are never used may hold anything. For measurements alone: a model that
needs a kernel left out fails. TensorRT's provider is left out too. Needs the command zstd.
"""

from __future__ import annotations

import re
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

UNUSED = ("flash", "moe", "cutlass", "fpA_intB", "weight_only", "paged")  # parts of names of kernels
_FATBIN = struct.pack("<IH", 0xBA55ED50, 1)
_ELF = 2  # kind of entry; PTX is 1
_NAMES = re.compile(rb"\.text\.([A-Za-z0-9_]{8,400})")


@dataclass(frozen=True)
class Entry:
    """One module for one architecture inside a library: `size` bytes from `start` on."""

    kind: int
    architecture: int
    start: int
    size: int
    compressed: int


@click.command()
@click.option("--wheel", type=click.Path(path_type=Path), required=True)
@click.option("--architecture", type=int, default=90, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(wheel: Path, architecture: int, out: Path) -> None:
    """Write OUT, the smaller wheel."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(wheel) as before,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as after,
    ):
        for name in before.namelist():
            if "providers_tensorrt" in name:
                continue
            content = before.read(name)
            if name.endswith("providers_cuda.so"):
                content = pruned(content, architecture)
            after.writestr(name, content)
    click.echo(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


def pruned(library: bytes, architecture: int) -> bytes:
    """The library with zeros for the modules that are of no use."""
    kept = bytearray(library)
    for entry in _entries(library):
        wanted = entry.kind == _ELF and entry.architecture == architecture
        if not wanted or _is_unused(library, entry):
            kept[entry.start : entry.start + entry.size] = bytes(entry.size)
    return bytes(kept)


def _entries(library: bytes) -> Iterator[Entry]:
    """Source of the layout: github.com/n-eiling/cuda-fatbin-decompression."""
    at = library.find(_FATBIN)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size, compressed = struct.unpack_from("<HHIQI", library, entry)
            (architecture,) = struct.unpack_from("<I", library, entry + 28)
            yield Entry(kind, architecture, entry + header, size, compressed)
            entry += header + size
        at = library.find(_FATBIN, end)


def _is_unused(library: bytes, entry: Entry) -> bool:
    module = library[entry.start : entry.start + entry.compressed]
    command = ["zstd", "--decompress", "--stdout"]
    elf = subprocess.run(command, input=module, capture_output=True, check=False).stdout
    names = b" ".join(_NAMES.findall(elf)).decode()
    return any(part in names for part in UNUSED)


if __name__ == "__main__":
    main()
