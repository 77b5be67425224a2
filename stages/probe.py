"""Comparing a site's or an engine's answer to the probe of a bundle with the expected one."""

from __future__ import annotations

import numpy as np

from stages.bundle import PROBE_FILE, Bundle, Probe
from stages.tensors import Array


def difference(probe: Probe, answer: Array) -> float:
    """Largest difference of an embedding [1, w, w, D] from the probe's, as a fraction of its largest value.

    NaN when the answer is not finite: compare with `not difference <= tolerance`.
    """
    expected = probe.embedding
    return float(np.abs(answer.astype(np.float32) - expected).max() / np.abs(expected).max())


def has_probe(bundle: Bundle) -> bool:
    """Whether this copy of the bundle holds its probe, which lies in the folder of the edge."""
    return PROBE_FILE in bundle.edge_files and (bundle.path / PROBE_FILE).is_file()
