"""The workspace for a GPU that shares the system's memory."""

from __future__ import annotations

import pytest

from export.engines.memory import LEAST_WORKSPACE, LIBRARY_BYTES, MOST_WORKSPACE, workspace_from_free

WEIGHTS = 100_000_000
BESIDES = LIBRARY_BYTES + 2 * WEIGHTS


@pytest.mark.parametrize(
    ("free", "workspace"),
    [
        (BESIDES + (2000 << 20), 1000 << 20),
        (BESIDES + (2001 << 20) + 5, 1000 << 20),  # whole MiB
        (BESIDES + (3 << 30) + (2 << 20), (1 << 30) + (513 << 20)),
        (0, LEAST_WORKSPACE),
        (BESIDES, LEAST_WORKSPACE),
        (64 << 30, MOST_WORKSPACE),
    ],
)
def test_it_is_half_of_what_the_build_leaves(free: int, workspace: int) -> None:
    assert workspace_from_free(free, WEIGHTS) == workspace
