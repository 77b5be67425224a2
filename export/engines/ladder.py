"""What is tried when a builder runs out of memory: less workspace, then less optimisation, then advice.

Less workspace costs the engine some speed, if anything; a lower optimisation level costs more, as kernels are
then chosen by rule and not by timing. So workspace goes first. Where the builder says that it was the limit
itself that ran out, the next try gets twice as much. Each try is a whole build, minutes on a small board: the
ladder is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from export.engines.builder import MemoryRanOut
from stages.engines.out_of_memory import wants_more_workspace
from stages.engines.plans import Attempt
from stages.errors import EngineError

T = TypeVar("T")

MEMORY_ADVICE = (
    "what helps: the desktop off (pedsam flash --headless, or sudo systemctl isolate multi-user.target) and "
    "a swap file (on Jetson at least 8 GB), no other program on the GPU, a larger --workspace-mb where the "
    "builder asked for more, a smaller model"
)


@dataclass(frozen=True)
class Rung:
    """A share of the workspace of the first try, and a builder's optimisation level (None: its default)."""

    share: float
    level: int | None


# The last rung takes more workspace again: a quarter may have been too little for any kernel.
RUNGS = (Rung(1, None), Rung(0.5, None), Rung(0.25, None), Rung(0.25, 1), Rung(0.5, 0))
# What is tried: workspace in bytes (None: no limit) and level, with the tries before.
Try = Callable[[int | None, int | None, tuple[Attempt, ...]], T]


def climb(
    stage: str,
    rungs: Sequence[Rung],
    workspace: Callable[[], int | None],
    attempt: Try[T],
    note: Callable[[str], None],
) -> T:
    """What `attempt` returns on the first rung where it does not raise MemoryRanOut.

    `workspace` is asked before each try: the memory that is free changes. `note` gets a sentence before each
    further try. Raises EngineError when every rung ran out of memory, and whatever else `attempt` raises.
    """
    failed: list[Attempt] = []
    for rung in rungs:
        size = _size(rung, workspace(), failed)
        if failed:
            note(f"{failed[-1].outcome}; trying {_settings(size, rung.level)}")
        try:
            return attempt(size, rung.level, tuple(failed))
        except MemoryRanOut as exc:
            failed.append(Attempt(size, rung.level, str(exc)))
    raise EngineError(
        f"memory ran out while building stage {stage}, tried with "
        f"{', '.join(_settings(each.workspace_bytes, each.optimization_level) for each in failed)}: "
        f"{failed[-1].outcome}; stages built before it are kept; {MEMORY_ADVICE}"
    )


def _size(rung: Rung, whole: int | None, failed: Sequence[Attempt]) -> int | None:
    """Workspace of a try, given what the first would get now: at least twice a limit that was too little."""
    if whole is None:
        return None
    short = [t.workspace_bytes for t in failed if wants_more_workspace(t.outcome, t.workspace_bytes)]
    return max(1, int(whole * rung.share), *(2 * size for size in short if size is not None))


def _settings(size: int | None, level: int | None) -> str:
    workspace = "no limit of workspace" if size is None else f"{size / 1e6:.1f} MB of workspace"
    return workspace if level is None else f"{workspace} at optimisation level {level}"
