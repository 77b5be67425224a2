"""How much memory building and running engines takes, and how much of it a builder may use as workspace."""

from __future__ import annotations

from stages.bundle import Bundle

# Memory of the builder without a network: over 1.5 GB are reported of an 8 GB Jetson Orin Nano.
LIBRARY_BYTES = 1_600_000_000
# CUDA's context and TensorRT's runtime, once a process. An estimate.
RUNTIME_BYTES = 600_000_000
# The most that a stage of SAM asks for while it runs is 410 MB: vit_h's window stage in fp32. With less a
# builder may find no kernel that fits.
LEAST_WORKSPACE = 512 << 20
# More helps no stage of SAM: four times what the largest asks for.
MOST_WORKSPACE = 2048 << 20


def weights_bytes(bundle: Bundle, name: str) -> int:
    """Size of a stage's files, which are its weights and a small graph."""
    return sum((bundle.path / file).stat().st_size for file in bundle.stage(name).files)


def peak_without_workspace(weights: int) -> int:
    """Estimated peak of building, workspace apart: the library, and the weights as parsed and in the plan."""
    return LIBRARY_BYTES + 2 * weights


def workspace_from_free(free: int, weights: int) -> int:
    """Workspace in bytes for a GPU that shares the system's memory, `free` bytes of which are free now.

    Half of what the rest of the build leaves: the other half is for the tensors that kernels are timed on,
    and because free memory is in pieces. At least LEAST_WORKSPACE, at most MOST_WORKSPACE, whole MiB.
    """
    half = (free - peak_without_workspace(weights)) // 2
    return min(MOST_WORKSPACE, max(LEAST_WORKSPACE, half)) >> 20 << 20
