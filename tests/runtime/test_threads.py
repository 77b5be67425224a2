"""What the edge's command line starts besides its own threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
import importlib, os
from pedsam.command import COMMANDS
importlib.import_module(COMMANDS["run"][0].partition(".")[0])
import numpy
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_numpy_starts_no_threads_that_spin() -> None:
    """Counted as far as `pedsam run` has got when it imports numpy. On one core this holds anyway."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", COMMAND]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) == 1
