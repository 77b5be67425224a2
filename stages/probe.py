"""Comparing a site's or an engine's answer to the probe of a bundle with the expected one."""

from __future__ import annotations

import math

import numpy as np

from stages.bundle import PROBE_FILE, Bundle, Probe
from stages.tensors import Array

_SMALLEST = 1e-12  # instead of a root mean square of 0


def difference(probe: Probe, answer: Array) -> float:
    """Difference of an embedding [1, w, w, r] from the probe's, as a fraction: see Probe.

    NaN when the answer is not finite: compare with `not difference <= tolerance`.
    """
    if not probe.by_largest:
        return relative_rms(answer, probe.embedding)
    expected = probe.embedding
    return float(np.abs(answer.astype(np.float32) - expected).max() / np.abs(expected).max())


def relative_rms(answer: Array, expected: Array) -> float:
    """RMS of the difference of two embeddings of one shape, divided by that of the expected one.

    Zeros differ by 1, the embedding of another tile by about 1. A component that is larger than the others
    counts for more, but does not hide them as it hides them from a maximum.
    """
    own = expected.astype(np.float64)
    rms = math.sqrt(float(np.mean((answer.astype(np.float64) - own) ** 2)))
    return rms / max(math.sqrt(float(np.mean(own**2))), _SMALLEST)


def has_probe(bundle: Bundle) -> bool:
    """Whether this copy of the bundle holds its probe, which lies in the folder of the edge."""
    return PROBE_FILE in bundle.edge_files and (bundle.path / PROBE_FILE).is_file()
