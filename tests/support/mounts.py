"""Files mounted by themselves and read-only folders, as containers get them, in a mount namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import ROOT

_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc"]


def _mounts_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    line = [*_NAMESPACE, "mount --bind /tmp /tmp"]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(
    not _mounts_work(), reason="mounted files NOT TESTED: no mount namespaces here (unshare)"
)


def python_with(folder: Path, mounts: str, program: str) -> str:
    """What a Python program prints that runs in `folder` after shell commands that mount something there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "program": program, "python": sys.executable}
    line = [*_NAMESPACE, f'{mounts}\nexec "$python" -c "$program"']
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mounted_file(path: str) -> str:
    """Commands that mount a file by itself over the one of this name, so that it cannot be renamed."""
    return f"cp {path} {path}.host; mount --bind {path}.host {path}"


def read_only(folder: str) -> str:
    """Commands that make a folder read-only."""
    return f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"
