"""What a measurement was made on, and of which commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from stages.measured_on import describe

__all__ = ["commit", "describe"]

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """What is measured: the commit of this clone, and whether files differ from it."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return (
        subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        or "unknown"
    )
