"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.engines.onnxruntime_engine import library

ROOT = Path(__file__).parent.parent


def describe() -> dict[str, Any]:
    """Processor, memory, versions and date (UTC), as every results file holds them."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "aiohttp")},
        "onnxruntime": library().__version__,  # of whichever package brings it, onnxruntime-gpu among them
    }


def commit() -> str:
    """What is measured: the commit of this clone, and whether files differ from it."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return (
        subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        or "unknown"
    )


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
