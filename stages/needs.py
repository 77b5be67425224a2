"""How much memory a site and an edge take, estimated before anything is loaded.

    resident = base + COPIES x the files of the stages + ACTIVATION_BYTES x tokens x channels
    virtual  = resident + what libraries map + a part for each thread of an engine

The base is Python with the libraries of the place. onnxruntime on the CPU holds a stage's weights three times
while it loads it: the file, its own copy, and what it packs for its kernels. On a GPU they pass through once,
and activations are there. Tokens are those of the whole canvas at an edge (the global stage) and of a batch
of windows at a site.

Measured, largest resident and virtual size in MB, two threads, onnxruntime 1.32 on the CPU (2026-11-27): edge
with mini 225 and 1069, it runs within 900 of address space; site with mini 118 and 421, within 400. The rule
says 225, 925; 105, 455. With vit_b an edge took 1040 and a site 434 (docs/results.md); the rule says 970 and
480.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.bundle import Bundle
from stages.engines.devices import visible_device
from stages.machine import MB, Need, default_threads, own_ceilings, require

COPIES = 3
ACTIVATION_BYTES = 80
BATCH_WINDOWS = 4


@dataclass(frozen=True)
class _Place:
    """Bytes: of Python and libraries; of what those map beside; of what each thread of an engine maps."""

    base: int
    mapped: int
    thread: int


_SITE = _Place(80 * MB, 250 * MB, 50 * MB)
_EDGE = _Place(150 * MB, 550 * MB, 75 * MB)


def site_need(bundles: Sequence[Bundle], backend: str, threads: int | None, buffers: int) -> Need:
    """Of a site with these bundles, and `buffers` bytes for bodies and answers."""
    weights = sum(_files_bytes(bundle, ["window"]) for bundle in bundles)
    largest = max((bundle.geometry.window**2 * bundle.geometry.dim for bundle in bundles), default=0)
    return _need(_SITE, weights, BATCH_WINDOWS * largest, backend, threads, buffers)


def edge_need(
    bundle: Bundle, stages: Sequence[str], backend: str, threads: int | None, beside: int = 0
) -> Need:
    """Of an edge that runs these stages, and what takes so many bytes `beside` them."""
    canvas = bundle.geometry.tokens**2 * bundle.geometry.dim
    return _need(_EDGE, _files_bytes(bundle, stages), canvas, backend, threads, beside)


def require_edge(
    bundle: Bundle, stages: Sequence[str], backend: str, threads: int | None, beside: int = 0
) -> None:
    """Raise EngineError when this process may not take what `edge_need` says."""
    need = edge_need(bundle, stages, backend, threads, beside)
    require(need, f"an edge with {bundle.geometry.name}", own_ceilings())


def _need(place: _Place, weights: int, values: int, backend: str, threads: int | None, buffers: int) -> Need:
    on_gpu = backend != "onnxruntime-cpu" and visible_device() is not None
    engines = weights if on_gpu else COPIES * weights + ACTIVATION_BYTES * values
    resident = place.base + engines + buffers
    running = threads or default_threads() or os.cpu_count() or 1
    return Need(resident, resident + place.mapped + place.thread * running)


def _files_bytes(bundle: Bundle, stages: Iterable[str]) -> int:
    """Size of these stages' files; one that is missing is named when it is loaded."""
    files = [
        bundle.path / name for stage in stages if bundle.has(stage) for name in bundle.stage(stage).files
    ]
    return sum(file.stat().st_size for file in files if file.is_file())
