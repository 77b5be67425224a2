"""What a run says of what it did not do."""

from __future__ import annotations

from runtime.objects.prompts import Prompt, Prompts
from runtime.results.doubts import Doubt
from runtime.results.measurements import RunMeasurements
from runtime.results.outcome import nothing_done, shortfalls

NOTHING_ASKED = Prompts(())


def measured(frames: int, lost: int = 0, **objects: bool) -> RunMeasurements:
    result = RunMeasurements(frames=frames)
    for number in range(lost):
        result.lost.add(f"p{number}", f"in/p{number}.jpg cannot be decoded")
    result.note_objects(objects)
    return result


def test_a_complete_run_has_nothing_to_say() -> None:
    assert list(shortfalls(measured(3, cup=True), Prompts((Prompt("cup", (1, 2, 3, 4)),)))) == []
    assert nothing_done(measured(3, cup=True), asked=True, stopped=None) is None


def test_lost_frames_are_named_some_of_many() -> None:
    (said,) = shortfalls(measured(9, lost=7, cup=True), NOTHING_ASKED)
    assert said == "7 of 9 frames are lost: p0, p1, p2 and 4 more"


def test_frames_in_doubt_are_named_with_the_reason() -> None:
    doubts = [Doubt("b", [(2, 5)], "site b: lies"), Doubt("c", [], "site c: lies")]
    (said,) = shortfalls(measured(9, cup=True), NOTHING_ASKED, doubts)
    assert said == "frames 2 to 5 may be wrong: site b: lies"


def test_an_object_that_no_frame_shows_is_named() -> None:
    result = measured(2, cup=False, dog=False)
    result.note_objects({"dog": True, "cup": False})
    result.note_objects({"dog": False})
    (said,) = shortfalls(result, NOTHING_ASKED)
    assert said.startswith("no frame shows object cup: nothing was found")


def test_a_prompt_that_no_frame_came_for_is_named() -> None:
    prompts = Prompts((Prompt("a", (1, 2, 3, 4)), Prompt("b", (1, 2, 3, 4), from_frame=30)))
    (said,) = shortfalls(measured(30, a=True), prompts)
    assert said == "object b was not asked for from frame 30 on: there are 30 frames"


def test_what_counts_as_nothing() -> None:
    assert nothing_done(measured(0), asked=True, stopped=None) == (
        "nothing was done: the source gave no frame"
    )
    assert nothing_done(measured(0), asked=True, stopped="SIGTERM") == (
        "nothing was done: SIGTERM stopped the run before its first frame"
    )
    assert nothing_done(measured(2, lost=2), asked=False, stopped="SIGTERM") == (
        "nothing was done: every frame is lost, the last one because in/p1.jpg cannot be decoded"
    )
    assert nothing_done(measured(2, lost=1), asked=False, stopped=None) is None
    assert nothing_done(measured(2, lost=1), asked=True, stopped=None) == (
        "nothing was done: no frame was segmented, so there are no masks"
    )
