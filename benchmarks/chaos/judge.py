"""What must be true of every run, and which of it was not."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as coco

from benchmarks.chaos.faults import LIES
from benchmarks.chaos.film import FRAMES
from benchmarks.chaos.run import EdgeEnd, Outcome

# Of `pedsam run`: done, also after a signal that ends it; could not be done, in a sentence; the command line
# is wrong; done, with frames lost. A signal before the first frame ends with 128 and its number.
EXIT_CODES = (0, 1, 2, 3)
STOPPED_EARLY = 128
LEAST_IOU = 0.999  # of a mask with that of the run without sites, which rounds embeddings as the wire does
# Kinds that must end a run, and a word of the sentence.
_FAILS = {"ledger_damaged": "ledger", "disk_full": "large"}

Masks = Sequence[Mapping[str, Any]]
Invariant = Callable[[Outcome, Masks], Iterator[str]]


def judge(outcome: Outcome, undisturbed: Masks) -> dict[str, list[str]]:
    """Invariant -> how it was broken; those that held are left out. `undisturbed`: masks without sites."""
    found = {name: list(check(outcome, undisturbed)) for name, check in INVARIANTS.items()}
    return {name: broken for name, broken in found.items() if broken}


def _caps(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """No operator was sent more window positions in a session of the ledger than its cap."""
    caps = outcome.plan.caps()
    for operator, cap in caps.items():
        sent: dict[str, set[int]] = defaultdict(set)
        for number, edge in enumerate(outcome.edges):
            # A ledger that is gone afterwards leaves the next edge a session of its own.
            session = edge.session or f"edge {number}"
            sent[session] |= outcome.traffic.windows[number, operator]
        for session, windows in sent.items():
            if len(windows) > cap:
                yield f"{operator} was sent {sorted(windows)} in session {session}, its cap is {cap}"


def _tiles(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """Every tile shows the window it names, or nothing of the film."""
    if outcome.traffic.misnamed:
        yield f"{outcome.traffic.misnamed} tiles show another window than they say"
    if outcome.traffic.changed:
        yield f"tiles that resemble the film were sent as windows {sorted(outcome.traffic.changed)}"


def _masks(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """Every mask is the one of a run without sites; of a lying site: unless its frame is marked."""
    expected = {(line["frame"], line["object"]): line for line in undisturbed}
    for edge in outcome.edges:
        doubtful = _doubtful(edge.masks)
        for line in _frame_lines(edge):
            right = expected[line["frame"] % FRAMES, line["object"]]["segmentation"]
            overlap = _iou(line["segmentation"], right)
            if overlap < LEAST_IOU and line["frame"] not in doubtful:
                yield f"frame {line['frame']}, object {line['object']}: IoU {overlap:.4f}"


def _frame_lines(edge: EdgeEnd) -> list[Mapping[str, Any]]:
    """Without the lines that say which frames are in doubt."""
    return [line for line in edge.masks if "frame" in line]


def _doubtful(masks: Masks) -> set[int]:
    """Frames that are marked as in doubt: in their own lines, or by one that came later."""
    marked = {line["frame"] for line in masks if line.get("doubtful")}
    for line in masks:
        for first, last in line.get("doubtful_frames", ()):
            marked |= set(range(first, last + 1))
    return marked


def _iou(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> float:
    if one is None or other is None:
        return float(one is other)
    pair = [{"size": rle["size"], "counts": rle["counts"].encode()} for rle in (one, other)]
    if not any(coco.area(pair)):
        return 1.0
    return float(coco.iou(pair[:1], pair[1:], [0])[0][0])


def _frames(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """Where the edge has its window stage every frame comes out, in order, once."""
    for edge in _ran_on(outcome):
        if edge.summary is None:
            yield f"no summary was written; it ended with {edge.code}"
            continue
        done = edge.summary["frames"]
        if outcome.plan.edge_windows and edge.summary["frames_lost"]:
            yield f"{edge.summary['frames_lost']} of {done} frames lost: {edge.summary['lost']}"
        expected = FRAMES * outcome.plan.times
        if done != expected and edge.stopped_by is None:
            yield f"{done} of {expected} frames done"
        numbers = sorted({line["frame"] for line in _frame_lines(edge)})
        if outcome.plan.edge_windows and numbers != list(range(done)):
            yield f"{done} frames done, masks of {numbers}"


def _ran_on(outcome: Outcome) -> list[EdgeEnd]:
    """The edges that a site's or the ledger's trouble must not have ended; those that a signal ended before
    their first frame are none of them."""
    if outcome.plan.kinds & set(_FAILS) or not outcome.plan.edge_windows:
        return []
    return [edge for edge in outcome.edges if not _ended_by_signal(edge)]


def _ends(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """Each edge ended by itself, with the exit code that its faults ask for."""
    for edge in outcome.edges:
        said = edge.output.strip()[-300:]
        if edge.code is None:
            yield f"did not end; last it said: {said}"
        elif _ended_by_signal(edge):
            continue
        elif edge.code not in EXIT_CODES:
            yield f"ended with {edge.code}: {said}"
        elif edge in _ran_on(outcome) and edge.code != 0 and not _left_no_ledger(outcome, edge):
            yield f"ended with {edge.code}, expected 0: {said}"
        yield from _failed(outcome, edge)


def _left_no_ledger(outcome: Outcome, edge: EdgeEnd) -> bool:
    """Whether the run was complete, and its ledger could not be written at its end."""
    unwritten = (edge.summary or {}).get("ledger_unwritten")
    return "ledger_unwritable" in outcome.plan.kinds and edge.code == 1 and unwritten is not None


def _ended_by_signal(edge: EdgeEnd) -> bool:
    """Whether its exit code is that of the signal it was sent. Else it is judged as any."""
    if edge.stopped_by is None:
        return False
    number = edge.stopped_by
    return edge.code == (-number if number == signal.SIGKILL else STOPPED_EARLY + number)


def _failed(outcome: Outcome, edge: EdgeEnd) -> Iterator[str]:
    """What must end a run did, and was said."""
    for kind, word in _FAILS.items():
        if (
            kind in outcome.plan.kinds
            and edge.stopped_by is None
            and (edge.code != 1 or word not in edge.output)
        ):
            yield f"{kind}: ended with {edge.code}: {edge.output.strip()[-300:]}"
    if "ledger_damaged" in outcome.plan.kinds and outcome.traffic.tiles_in_all:
        yield f"{outcome.traffic.tiles_in_all} tiles were sent with a damaged ledger"


def _output(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """No traceback on the terminal, and nothing that steers it."""
    for edge in outcome.edges:
        if "Traceback" in edge.output:
            yield edge.output[edge.output.index("Traceback") :][-1500:]
        odd = sorted({char for char in edge.output if not char.isprintable() and char not in "\n\t"})
        if odd:
            yield f"control characters {odd} in what it said"


def _processes(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """The edge leaves no process, and each site stays or ends as it was told."""
    for edge in outcome.edges:
        if edge.orphans:
            yield f"processes {list(edge.orphans)} were left"
    yield from outcome.site_faults


def _lies(outcome: Outcome, undisturbed: Masks) -> Iterator[str]:
    """A site that lied is out at the end; that its frames are marked, `masks` looks at."""
    for fault in outcome.plan.faults:
        last = outcome.edges[-1].summary if outcome.edges else None
        if fault.kind in LIES and last is not None and outcome.traffic.done[fault.kind]:
            state = last["sites"][fault.site]["state"]
            if state != "excluded":
                yield f"site {fault.site} lied ({fault.kind}) and is {state}"


INVARIANTS: Mapping[str, Invariant] = {
    "caps": _caps,
    "tiles": _tiles,
    "masks": _masks,
    "frames": _frames,
    "ends": _ends,
    "output": _output,
    "processes": _processes,
    "lies": _lies,
}
