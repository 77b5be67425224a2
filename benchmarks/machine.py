"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.engines.onnxruntime_engine import library

ROOT = Path(__file__).parent.parent
WRITTEN = ("benchmarks/results", "docs/results.md")  # what a measurement writes is not what is measured
IDLE_CORES = 0.1  # less than that is not called busy
OTHERS = "cores_busy_with_other_things"  # the key of that number in results


def describe() -> dict[str, Any]:
    """Processor, memory, versions, commit and date (UTC), as every results file holds them."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "aiohttp")},
        "onnxruntime": library().__version__,  # of whichever package brings it, onnxruntime-gpu among them
    }


def commit(root: Path = ROOT) -> str:
    """What is measured: the commit of a clone, "-dirty" where its code differs; "unknown" without git."""
    if shutil.which("git") is None:
        return "unknown"
    found = _git(root, "rev-parse", "--short=12", "HEAD")
    if not found:
        return "unknown"
    return f"{found}-dirty" if any(not line.startswith("??") for line in uncommitted(root)) else found


def uncommitted(root: Path = ROOT) -> list[str]:
    """Lines of `git status --porcelain` about all but what measurements write; new files are in it as ??."""
    return _git(
        root, "status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in WRITTEN)
    ).splitlines()


def where(machine: Mapping[str, Any]) -> str:
    """What `describe` found, in a few words: "two cores of an Intel Xeon, 2026-11-28, commit 0a22f25f"."""
    cores = {1: "one core", 2: "two cores"}.get(machine["cores"], f"{machine['cores']} cores")
    cpu = " ".join(machine["cpu"].replace("(R)", "").replace("Processor", "").split())
    words = [f"{cores} of {'an' if cpu[:1] in 'AEIOU' else 'a'} {cpu}", machine["date"]]
    words += [f"commit {machine['commit']}"] if "commit" in machine else []
    return ", ".join(words)


def _git(root: Path, *arguments: str) -> str:
    line = ["git", *arguments]
    return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False).stdout.rstrip()


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
