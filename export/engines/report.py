"""What `pedsam build` tells: a table for people, and the same as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from export.engines.build import Row, Target
from export.engines.memory import RUNTIME_BYTES
from stages.bundle import Bundle
from stages.engines.devices import free_bytes
from stages.engines.plans import ENGINES, PlanRecord

FORMAT = 1
HEADINGS = (
    "stage",
    "precision",
    "build",
    "engine",
    "weights",
    "activations",
    "workspace",
    "builder's peak",
)


def table(rows: Sequence[Row]) -> Table:
    found = Table()
    for heading in HEADINGS:
        found.add_column(heading, justify="left" if heading in ("stage", "precision") else "right")
    for row in rows:
        record = row.record
        took = f"{record.build_s:.1f} s" if row.reason else "reused"
        sizes = map(_mb, (record.plan_bytes, record.weights_bytes, record.activation_bytes))
        cells = (*sizes, _workspace(record), _mb(record.peak_bytes))
        found.add_row(row.stage, record.key.precision, took, *cells)
    return found


def _workspace(record: PlanRecord) -> str:
    """The workspace, the optimisation level where it is not the default, how many tries where several."""
    if not record.attempts:
        return "unknown"
    level, tries = record.optimization_level, len(record.attempts)
    parts = ["all" if record.workspace_bytes is None else _mb(record.workspace_bytes)]
    parts += [f"level {level}"] if level is not None else []
    return ", ".join(parts + ([f"try {tries}"] if tries > 1 else []))


def together_bytes(rows: Sequence[Row]) -> int:
    """About what running these engines in one process takes, CUDA and TensorRT included."""
    engines = (
        (row.record.weights_bytes or row.record.plan_bytes) + (row.record.activation_bytes or 0)
        for row in rows
    )
    return RUNTIME_BYTES + sum(engines)


def fit(rows: Sequence[Row], target: Target) -> str:
    """Whether the engines fit in one process together."""
    needed = together_bytes(rows)
    together = f"running them together takes about {gb(needed)}, CUDA and TensorRT included"
    if not target.present:
        return together
    free = free_bytes(target.device)
    return f"{together}; {gb(free)} are free: {'fits' if needed <= free else 'DOES NOT FIT'}"


def as_json(
    bundle: Bundle, target: Target, image: str, rows: Sequence[Row], failed: dict[str, str] | None
) -> dict[str, Any]:
    """Everything of `table` and `fit`, in bytes and seconds; `failed` is the stage that ended it and why."""
    return {
        "format": FORMAT,
        "bundle": str(bundle.path),
        "model": bundle.description,
        "site_digest": bundle.site_digest,
        "device": target.device.name,
        "compute_capability": target.device.sm,
        "library": target.library,
        "library_version": target.version,
        "image": image,
        "stages": [_stage_json(row, target) for row in rows],
        "failed": failed,
        "together_bytes": together_bytes(rows),
        "free_bytes": free_bytes(target.device) if target.present else None,
    }


def _stage_json(row: Row, target: Target) -> dict[str, Any]:
    record = row.record
    return {
        "stage": row.stage,
        "precision": record.key.precision,
        "reason": row.reason,
        "plan": f"{ENGINES}/{target.device.folder}/{row.stage}.plan" if target.present else None,
        "plan_sha256": record.plan_sha256,
        "plan_bytes": record.plan_bytes,
        "weights_bytes": record.weights_bytes,
        "activation_bytes": record.activation_bytes,
        "build_s": record.build_s,
        "peak_bytes": record.peak_bytes,
        "workspace_bytes": record.workspace_bytes,
        "optimization_level": record.optimization_level,
        "attempts": [asdict(attempt) for attempt in record.attempts],
    }


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
