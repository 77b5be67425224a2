"""What a run did not do: frames that were lost, objects that were not found, whether it did anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.objects.prompts import Prompts
from runtime.results.doubts import Doubt, in_words
from runtime.results.measurements import RunMeasurements
from stages.errors import printable
from stages.words import some_of


def shortfalls(measured: RunMeasurements, prompts: Prompts, doubts: Sequence[Doubt] = ()) -> Iterator[str]:
    """A sentence for each way in which a run that has ended, and did something, fell short of what was asked.

    `prompts` are those that a frame should have come for, `doubts` those about its frames.
    """
    for doubt in doubts:
        if doubt.frames:
            yield f"{in_words(doubt.frames)} may be wrong: {printable(doubt.reason)}"
    if 0 < measured.lost.count < measured.frames:
        names = some_of(list(measured.lost.reasons))
        yield f"{measured.lost.count} of {measured.frames} frames are lost: {names}"
    if missed := [name for name, found in measured.objects.items() if not found]:
        yield (
            f"no frame shows object {some_of(missed)}: nothing was found, or its mask is empty; see that its "
            "box or points lie on it, in pixels of the frame"
        )
    for prompt in prompts.entries:
        if prompt.from_frame >= measured.frames:
            yield (
                f"object {prompt.name} was not asked for from frame {prompt.from_frame} on: there are "
                f"{measured.frames} frames"
            )


def stopped_early(signal_name: str) -> str:
    return f"nothing was done: {signal_name} stopped the run before its first frame"


def nothing_done(measured: RunMeasurements, *, asked: bool, stopped: str | None) -> str | None:
    """Why a run that has ended did nothing, None if it did something.

    `asked`: each frame should have been segmented. `stopped` names the signal that stopped it, if one did.
    """
    if measured.frames == 0:
        return stopped_early(stopped) if stopped else "nothing was done: the source gave no frame"
    if measured.lost.count == measured.frames:
        reason = next(reversed(measured.lost.reasons.values()))
        return f"nothing was done: every frame is lost, the last one because {reason}"
    if asked and not measured.objects:
        return "nothing was done: no frame was segmented, so there are no masks"
    return None
