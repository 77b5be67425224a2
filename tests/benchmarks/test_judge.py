"""Each invariant is broken once by hand and named; a good run breaks none."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from benchmarks.chaos.draw import Plan, SitePlan
from benchmarks.chaos.faults import AT_START, Fault
from benchmarks.chaos.film import FRAMES, Film
from benchmarks.chaos.judge import INVARIANTS, judge
from benchmarks.chaos.proxy import Traffic
from benchmarks.chaos.run import EdgeEnd, Outcome


def line(frame: int, left: int = 0) -> dict[str, Any]:
    """A square mask, so far from the left edge."""
    mask = np.zeros((40, 40), np.uint8, order="F")
    mask[5:25, left : left + 20] = 1
    rle = coco.encode(mask)
    return {
        "frame": frame,
        "object": "1",
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


MASKS = [line(frame) for frame in range(FRAMES)]
KILL = Fault("kill", "a", 3, 1, 0.5)


def outcome(*faults: Fault, edge_windows: bool = True, **edge: Any) -> Outcome:
    """A good run of two operators with caps 8 and 3, changed as said."""
    sites = (SitePlan("a", "alpha", False, None), SitePlan("b", "beta", False, 3))
    plan = Plan(0, 0, "fp16", sites, edge_windows, faults, times=1)
    traffic = Traffic(Film(Path("film"), np.zeros((1, 80, 80, 3), np.uint8), {}))
    traffic.windows[0, "alpha"] = set(range(8))
    traffic.windows[0, "beta"] = {8, 9, 10}
    summary = {"frames": FRAMES, "frames_lost": 0, "lost": {}, "sites": {"a": {"state": "ready"}}}
    good = EdgeEnd(0, "mini, distilled weights\n", summary, MASKS, "2026-01-01", None)
    return Outcome(plan, traffic, [replace(good, **edge)])


def test_a_good_run_breaks_nothing() -> None:
    assert judge(outcome(KILL), MASKS) == {}


def windows(*more: int) -> Callable[[], Outcome]:
    def changed() -> Outcome:
        made = outcome(KILL)
        made.traffic.windows[0, "beta"] |= set(more)
        return made

    return changed


def second_edge(session: str | None) -> Outcome:
    """The first edge was killed, and the second sent another window to beta."""
    made = outcome(KILL)
    killed = replace(made.edges[0], code=-9, stopped_by=signal.SIGKILL, summary=None, session=session)
    made.edges = [killed, made.edges[0]]
    made.traffic.windows[1, "beta"] = {11}
    return made


def site_fault() -> Outcome:
    made = outcome(KILL)
    made.site_faults = ["site a did not end"]
    return made


def traffic(**changes: Any) -> Callable[[], Outcome]:
    def changed() -> Outcome:
        made = outcome(KILL)
        for name, value in changes.items():
            setattr(made.traffic, name, value)
        return made

    return changed


def liar() -> Outcome:
    made = outcome(Fault("zeros", "a", 3, 1, 0.5))
    made.traffic.done["zeros"] = 1
    return made


def edge(*faults: Fault, **changes: Any) -> Callable[[], Outcome]:
    return lambda: outcome(*(faults or (KILL,)), **changes)


LOST = {"frames": FRAMES, "frames_lost": 1, "lost": {"3": "no site"}}
UNWRITTEN = {**LOST, "frames_lost": 0, "sites": {"a": {"state": "ready"}}, "ledger_unwritten": "it is full"}
DAMAGED = Fault("ledger_damaged", "", AT_START, 1, 0.5)
UNWRITABLE = Fault("ledger_unwritable", "", 3, 1, 0.5)
BROKEN: dict[str, tuple[str, Callable[[], Outcome]]] = {
    "one window over the cap": ("caps", windows(12)),
    "over the cap by two edges of one session": ("caps", lambda: second_edge("2026-01-01")),
    "a tile that shows another window": ("tiles", traffic(misnamed=1)),
    "a tile that shows the film otherwise": ("tiles", traffic(changed={4})),
    "another mask": ("masks", edge(masks=[*MASKS[:-1], line(FRAMES - 1, left=1)])),
    "a mask less": ("masks", edge(masks=[*MASKS[:-1], {**MASKS[-1], "segmentation": None}])),
    "a frame lost": ("frames", edge(summary=LOST)),
    "no summary": ("frames", edge(summary=None)),
    "a frame without masks": ("frames", edge(masks=MASKS[1:])),
    "frames not looked at": (
        "frames",
        edge(summary={**LOST, "frames": 3, "frames_lost": 0}, masks=MASKS[:3]),
    ),
    "an edge that hangs": ("ends", edge(code=None)),
    "an edge that aborts": ("ends", edge(code=-6)),
    "an edge that a site ended": ("ends", edge(code=1)),
    "an edge that does nothing when it is stopped": (
        "ends",
        edge(code=1, summary=None, masks=[], stopped_by=signal.SIGTERM),
    ),
    "an edge that loses frames when it is stopped": ("ends", edge(code=3, stopped_by=signal.SIGTERM)),
    "an edge with the code of another signal": ("ends", edge(code=130, stopped_by=signal.SIGTERM)),
    "an edge that dies of SIGTERM": ("ends", edge(code=-15, stopped_by=signal.SIGTERM)),
    "an edge that could not write its ledger and does not say so": ("ends", edge(UNWRITABLE, code=1)),
    "an edge that could have written its ledger": ("ends", edge(code=1, summary=UNWRITTEN)),
    "a damaged ledger that is used": ("ends", edge(DAMAGED)),
    "a traceback": ("output", edge(output="Traceback (most recent call last):\nValueError")),
    "a terminal that is steered": ("output", edge(output="site a: \x1b[2J")),
    "a process left": ("processes", edge(orphans=[7])),
    "a site in trouble": ("processes", site_fault),
    "a liar that is trusted": ("lies", liar),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_is_named(case: str) -> None:
    invariant, changed = BROKEN[case]
    assert invariant in judge(changed(), MASKS)


def test_every_invariant_is_broken_above() -> None:
    assert {invariant for invariant, _ in BROKEN.values()} == set(INVARIANTS)


ALLOWED: dict[str, Callable[[], Outcome]] = {
    "sessions are counted apart": lambda: second_edge(None),
    "SIGTERM ends a run before its first frame": edge(
        summary=None, masks=[], code=143, stopped_by=signal.SIGTERM
    ),
    "SIGTERM ends a run early": edge(
        summary={**LOST, "frames": 3, "frames_lost": 0}, masks=MASKS[:3], stopped_by=signal.SIGTERM
    ),
    "frames lost without a window stage at the edge": edge(
        KILL, edge_windows=False, summary=LOST, masks=MASKS[1:], code=1
    ),
    "a ledger cannot be written at the end": edge(UNWRITABLE, code=1, summary=UNWRITTEN),
    "a damaged ledger is refused": edge(
        DAMAGED, code=1, output="Error: the ledger is damaged", summary=None, masks=[]
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_may_be(case: str) -> None:
    assert judge(ALLOWED[case](), MASKS) == {}


def test_the_masks_of_a_lie_may_differ_where_they_are_marked() -> None:
    other = line(FRAMES - 1, left=9)
    assert "masks" in judge(outcome(KILL, masks=[*MASKS[:-1], other]), MASKS)
    assert judge(outcome(KILL, masks=[*MASKS[:-1], {**other, "doubtful": True}]), MASKS) == {}
    later = {"doubtful_frames": [[3, 4], [FRAMES - 1, FRAMES - 1]], "site": "b", "reason": "zeros"}
    assert judge(outcome(KILL, masks=[*MASKS[:-1], other, later]), MASKS) == {}
