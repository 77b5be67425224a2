"""What a measurement was made on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import measured_on

ROOT = Path(__file__).parent.parent
WRITTEN = ("benchmarks/results", "docs/results.md")  # what a measurement writes is not what is measured
IDLE_CORES = 0.1  # less than that is not called busy
OTHERS = "cores_busy_with_other_things"  # the key of that number in results


def describe() -> dict[str, Any]:
    """Processor, memory, versions, date (UTC) and commit, as every results file holds them."""
    return {**measured_on.describe(), "commit": commit()}


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
