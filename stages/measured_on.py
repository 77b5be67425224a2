"""What a measurement was made on, as every file of figures says it."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.engines.onnxruntime_engine import library

ROOT = Path("/")


def describe(root: Path = ROOT) -> dict[str, Any]:
    """Processor, memory, versions and date (UTC); the board's name where Linux tells one."""
    board = _text(root / "proc/device-tree/model").strip("\0\n")
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        **({"board": board} if board else {}),
        "cpu": _field(root / "proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field(root / "proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "aiohttp")},
        "onnxruntime": library().__version__,  # of whichever package brings it, onnxruntime-gpu among them
    }


def _field(file: Path, name: str) -> str:
    for line in _text(file).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _text(file: Path) -> str:
    """ "" where there is no such file, as in a container that hides it."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
