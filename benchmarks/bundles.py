"""Bundles that measurements make for themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.machine import ROOT
from runtime.demo.demo import PEDSAM
from stages.bundle import is_bundle


def random_bundle(model: str) -> Path:
    """The model with random weights, exported to out/random once; of vit_b and vit_h that takes minutes."""
    path = ROOT / "out" / "random" / model
    if not is_bundle(path):
        line = [*PEDSAM, "export", "--model", model, "--random-weights", "--out", str(path)]
        subprocess.run(line, check=True, stdout=sys.stderr)
    return path
