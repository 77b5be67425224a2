"""Turn the desktop off, with --headless: up to 865 MB more for engines (NVIDIA's figure for JetPack)."""

from __future__ import annotations

from collections.abc import Mapping

from jetson.connection import Board
from jetson.steps.step import Job, Plan, Say, Step, required

HEADLESS = "multi-user.target"
BEFORE_TARGET = "default_target"


class DesktopStep(Step):
    """Without --headless it changes nothing."""

    name = "desktop"

    def look(self, job: Job) -> Plan:
        target = worth_remembering(job.board).get(BEFORE_TARGET, "an unknown target")
        found = f"the board starts into {target}"
        if not job.options.headless or target == HEADLESS:
            return Plan(found)
        return Plan(found, "turn the desktop off, now and at every start")

    def do(self, job: Job, say: Say) -> str:
        for key, value in worth_remembering(job.board).items():
            job.remember(key, value)
        job.run("desktop.sh", "set", HEADLESS, what="the desktop cannot be turned off")
        return "the desktop is off; rollback turns it on again"


def worth_remembering(board: Board) -> dict[str, str]:
    """What `restore` needs to bring a board back to where it is now."""
    target = board.script("desktop.sh", "show").out.strip()
    return {BEFORE_TARGET: target} if target else {}


def restore(board: Board, before: Mapping[str, str]) -> str:
    """Start into the target of before, where another one is set; returns what was done, "" for nothing."""
    target = before.get(BEFORE_TARGET)
    if target is None or worth_remembering(board) == {BEFORE_TARGET: target}:
        return ""
    required(board, "desktop.sh", "set", target, what="the desktop cannot be turned on")
    return f"starts into {target} again"
