"""Trackers: what they give is what a run writes, prompts on the way, and how they end."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyio import to_thread

import pedsam
from runtime.objects.prompts import Prompt, Prompts
from stages.bundle import Bundle, shipped_bundle
from tests.runtime.test_session import Film, options, run
from tests.support.edge import write_photo
from tests.support.pictures import photo

pytestmark = pytest.mark.anyio

BOX = (150.0, 60.0, 450.0, 300.0)
CUP: dict[str, Any] = {"name": "cup", "box": BOX}
TABLE: dict[str, Any] = {"name": "table", "points": np.array([(30, 30, 1)]), "from_frame": np.int64(2)}
FILM_PROMPTS = Prompts((Prompt("cup", BOX), Prompt("table", None, ((30, 30, 1),), 2)))


def film(frames: int) -> Iterator[Any]:
    return (frame.pixels for frame in Film(frames))


def lines_of(frames: list[pedsam.TrackedFrame]) -> list[tuple[Any, ...]]:
    return [
        (
            frame.number,
            each.name,
            each.state.value,
            each.rle(),
            each.area,
            round(each.confidence, 4),
            each.check,
        )
        for frame in frames
        for each in frame.objects
    ]


async def lines_of_a_run(out: Path, frames: int, **pipeline: Any) -> list[tuple[Any, ...]]:
    """What `pedsam run` writes of the film, followed."""
    chosen = options(out, track=True)
    object.__setattr__(chosen, "pipeline", type(chosen.pipeline)(**pipeline))
    await run(Bundle.load(shipped_bundle()), Film(frames), chosen, FILM_PROMPTS)
    found = map(json.loads, (out / "masks.jsonl").read_text().splitlines())
    keys = ("frame", "object", "state", "segmentation", "area", "confidence", "check")
    return [tuple(each[key] for key in keys) for each in found]


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("keyframe_every", [1, 2])
async def test_objects_are_those_of_a_run(
    session: pedsam.Session, tmp_path: Path, in_flight: int, keyframe_every: int
) -> None:
    written = await lines_of_a_run(tmp_path / "out", 5, keyframe_every=keyframe_every)
    tracker = session.track(film(5), [CUP, TABLE], keyframe_every=keyframe_every, in_flight=in_flight)
    frames = list(tracker)
    assert lines_of(frames) == written
    states = {state for _, _, state, *_ in written}
    assert states == ({"tracked"} if keyframe_every == 1 else {"tracked", "carried"})
    assert [frame.number for frame in frames] == list(range(5))
    assert all(np.array_equal(frame.pixels, pixels) for frame, pixels in zip(frames, film(5), strict=True))
    masks = frames[4].masks
    assert list(masks) == ["cup", "table"]
    assert masks["cup"].shape == (360, 640)


async def test_a_second_film_begins_anew(session: pedsam.Session) -> None:
    first = lines_of(list(session.track(film(3), [CUP, TABLE])))
    session.segment(photo("16:9"), boxes=BOX)
    assert lines_of(list(session.track(film(3), [CUP, TABLE]))) == first


def test_films_and_pictures_may_mix_where_nothing_is_kept(session: pedsam.Session) -> None:
    alone = lines_of(list(session.track(film(3), [CUP])))
    first, second = session.track(film(3), [CUP]), session.track(film(3), [CUP])
    mixed: tuple[list[pedsam.TrackedFrame], ...] = [], []
    for pair in zip(first, second, strict=True):
        session.segment(photo("16:9"), boxes=BOX)
        for frames, frame in zip(mixed, pair, strict=True):
            frames.append(frame)
    assert lines_of(mixed[0]) == lines_of(mixed[1]) == alone


def test_what_is_asked_for_on_the_way(session: pedsam.Session) -> None:
    tracker = session.track(film(6))
    assert next(tracker).objects == ()
    assert tracker.prompt("cup", box=BOX) == "cup"  # on frame 0, of which no model run is known
    assert [each.name for each in next(tracker).objects] == ["cup"]
    assert tracker.prompt(points=(30, 30)) == "2"  # "1" was the cup's before it got a name
    assert [each.name for each in next(tracker).objects] == ["cup", "2"]
    before = next(tracker).masks["cup"]
    assert tracker.prompt("cup", points=[(300, 190), (60, 350)], labels=[1, 0]) == "cup"
    after = next(tracker).masks["cup"]
    assert 0 < np.count_nonzero(after & before) < np.count_nonzero(after | before)
    tracker.remove("cup")
    assert [each.name for each in next(tracker).objects] == ["2"]
    assert next(tracker, None) is None


def test_a_background_point_corrects_an_object_and_starts_none(session: pedsam.Session) -> None:
    tracker = session.track(film(4), [CUP])
    with pytest.raises(pedsam.InputError, match="object 1 has only background points"):
        tracker.prompt(points=(60, 350), labels=[0])
    next(tracker)
    before = next(tracker).masks["cup"]
    assert tracker.prompt("cup", points=(300, 190), labels=[0]) == "cup"
    with pytest.raises(pedsam.InputError, match="has only background points"):
        tracker.prompt("chair", points=(300, 190), labels=[0])
    frame = next(tracker)
    assert [each.name for each in frame.objects] == ["cup"]
    assert not np.array_equal(frame.masks["cup"], before)


def test_what_is_asked_for_before_the_first_frame(session: pedsam.Session) -> None:
    tracker = session.track(film(3), [TABLE])
    assert tracker.prompt("cup", box=BOX) == "cup"
    assert tracker.prompt(points=(30, 30)) == "1"
    tracker.remove("1")
    assert [[each.name for each in frame.objects] for frame in tracker] == [
        ["cup"],
        ["cup"],
        ["cup", "table"],
    ]


def test_names_and_places_that_cannot_be_are_a_sentence(session: pedsam.Session) -> None:
    tracker = session.track(film(5), [CUP, {**TABLE, "from_frame": 4}])
    with pytest.raises(pedsam.InputError, match="there is no object chair"):
        tracker.remove("chair")
    with pytest.raises(pedsam.InputError, match="object cup is asked for already"):
        tracker.prompt("cup", box=BOX)
    next(tracker)
    with pytest.raises(pedsam.InputError, match=r"point 9,400 .* lies outside the frame"):
        tracker.prompt(points=(9, 400))
    with pytest.raises(pedsam.InputError, match="another object is named table"):
        tracker.prompt("table", points=(9, 9))
    with pytest.raises(pedsam.InputError, match="nothing to segment"):
        tracker.prompt("chair")
    for boxes in ([], [BOX, BOX]):
        with pytest.raises(pedsam.ArgumentError, match=f"one object a call, not for {len(boxes)}"):
            tracker.prompt("chair", box=boxes)
    assert [each.name for each in next(tracker).objects] == ["cup"]


PROMPTS: dict[str, tuple[Any, str]] = {
    "no entries": ([("cup", BOX)], 'prompts are not entries like {"name": "cup"'),
    "an entry alone": (CUP, "prompts are no list of entries, .* holds: it has the unknown key 'box'"),
    "no entries in it": ({"objects": [5]}, "object 1 is 5, expected"),
    "neither": ([{"name": "cup"}], "object cup has neither a box nor a point"),
    "other keys": ([{"bbox": BOX}], "object 1 has the unknown key"),
    "corners": ([{"box": [1, 2]}], "the box of object 1 is not"),
    "twice": ([CUP, CUP], "object cup is given twice; give each object its own name"),
    "a file": ("gone.json", "gone.json"),
}


@pytest.mark.parametrize(("prompts", "words"), PROMPTS.values(), ids=PROMPTS)
def test_prompts_that_are_none_are_a_sentence(session: pedsam.Session, prompts: Any, words: str) -> None:
    with pytest.raises(pedsam.InputError, match=words):
        session.track(film(1), prompts)


def test_a_file_of_prompts(session: pedsam.Session, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"objects": [{**CUP, "box": list(BOX)}]}))
    expected = lines_of(list(session.track(film(2), [CUP])))
    for given in (path, json.loads(path.read_text()), {"objects": [CUP]}):
        assert lines_of(list(session.track(film(2), given))) == expected


def test_a_frame_that_is_none_is_a_sentence_and_the_film_goes_on(session: pedsam.Session) -> None:
    frames = [*film(2)]
    tracker = session.track([frames[0], frames[0] / 255, frames[1]], [CUP])
    next(tracker)
    with pytest.raises(pedsam.ArgumentError, match="a frame is float64"):
        next(tracker)
    frame = next(tracker)
    assert (frame.number, frame.objects[0].name) == (1, "cup")


def test_a_prompt_outside_its_frame_is_a_sentence(session: pedsam.Session) -> None:
    with pytest.raises(
        pedsam.ArgumentError, match="the box of object cup lies outside the frame of 640 x 360"
    ):
        next(session.track(film(1), [{**CUP, "box": [700, 400, 800, 500]}]))


@pytest.mark.parametrize("frames", [5, None, "gone.mp4"])
def test_frames_that_are_none_are_a_sentence(session: pedsam.Session, frames: Any) -> None:
    with pytest.raises(pedsam.InputError, match=r"expected an iterable of frames|gone\.mp4 is not there"):
        session.track(frames, [CUP])


def test_one_frame_is_no_film(session: pedsam.Session) -> None:
    frame = photo("16:9")
    with pytest.raises(
        pedsam.ArgumentError, match=r"frames are one array of shape \[360, 640, 3\], .* \[frame\]"
    ):
        session.track(frame, [CUP])
    assert len(list(session.track(np.stack([frame, frame]), [CUP]))) == 2


def test_a_folder_with_a_picture_that_cannot_be_read(session: pedsam.Session, tmp_path: Path) -> None:
    for name in "ac":
        write_photo(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:999])
    first, second, third = session.track(tmp_path, [CUP], in_flight=2)
    assert second.lost is not None
    assert "b.png" in second.lost
    assert (second.objects, second.masks, second.pixels.size) == ((), {}, 0)
    assert [(frame.number, list(frame.masks)) for frame in (first, third)] == [(0, ["cup"]), (2, ["cup"])]
    (cup,) = first.objects
    assert repr(cup) == f"TrackedObject('cup', tracked, {cup.area} pixels, score={cup.score:.2f})"
    assert repr(first) == f"TrackedFrame(0, 640 x 360, objects=[{cup}])"
    assert repr(second) == f"TrackedFrame(1, lost={second.lost!r})"


def test_paths_of_which_one_cannot_be_read_are_as_their_folder(
    session: pedsam.Session, tmp_path: Path
) -> None:
    for name in "ac":
        write_photo(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:999])
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    first, second, third, fourth = session.track(paths, [CUP], in_flight=2)
    assert "b.png" in str(second.lost)
    assert "d.png" in str(fourth.lost)
    assert (second.objects, second.pixels.size) == ((), 0)
    assert [(frame.number, list(frame.masks)) for frame in (first, third)] == [(0, ["cup"]), (2, ["cup"])]


def test_an_object_whose_frame_is_lost_starts_with_the_next(session: pedsam.Session, tmp_path: Path) -> None:
    paths = [write_photo(tmp_path / "a.png"), tmp_path / "gone.png", tmp_path / "a.png"]
    found = [list(frame.masks) for frame in session.track(paths, [CUP, {**TABLE, "from_frame": 1}])]
    assert found == [["cup"], [], ["cup", "table"]]


async def test_what_is_probably_not_meant_is_told(
    session: pedsam.Session, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a run, of a session with a loop too."""

    async def with_a_loop() -> None:
        async with pedsam.open_async(threads=1) as other:
            async for _ in other.track(film(2), [{**CUP, "box": [0.1, 0.1, 0.5, 0.5]}, later]):
                pass

    later = {"name": "later", "box": BOX, "from_frame": 7}
    await with_a_loop()
    assert caplog.messages[-1] == "object later was not asked for from frame 7 on: there were 2 frames"
    assert "coordinates are pixels of the frame, not shares" in caplog.messages[0]
    caplog.clear()
    tracker = session.track(film(3), [later])
    tracker.prompt("cup", box=[0.1, 0.1, 0.5, 0.5])
    assert "the box of object cup" in caplog.text
    next(tracker)
    tracker.prompt("table", points=(0.5, 0.3))
    assert "each point of object table" in caplog.text
    caplog.clear()
    assert len(list(tracker)) == 2
    assert caplog.messages == ["object later was not asked for from frame 7 on: there were 3 frames"]
    caplog.clear()
    assert lines_of(list(session.track(film(3), [CUP, TABLE])))
    assert caplog.messages == []


def test_what_the_callers_frames_raise_is_the_callers(session: pedsam.Session) -> None:
    def frames() -> Iterator[Any]:
        yield photo("16:9")
        raise ZeroDivisionError

    tracker = session.track(frames(), [CUP])
    next(tracker)
    with pytest.raises(ZeroDivisionError):
        next(tracker)


def test_frames_are_read_on_the_callers_thread_and_not_ahead(session: pedsam.Session) -> None:
    threads, read = set(), []

    def frames() -> Iterator[Any]:
        for number, pixels in enumerate(film(4)):
            threads.add(threading.current_thread())
            read.append(number)
            yield pixels

    for frame in session.track(frames(), [CUP]):
        assert read[-1] == frame.number
    assert threads == {threading.current_thread()}


def test_a_closed_tracker_gives_no_more(session: pedsam.Session) -> None:
    with session.track(film(3), [CUP], in_flight=2) as tracker:
        next(tracker)
    with pytest.raises(StopIteration):
        next(tracker)
    with pytest.raises(pedsam.SessionClosed, match="this tracker is closed"):
        tracker.prompt("table", points=(9, 9))


async def test_after_the_last_frame_nothing_can_be_asked_for(session: pedsam.Session) -> None:
    tracker = session.track(film(2), [CUP], in_flight=3)
    next(tracker)
    assert tracker.prompt("table", points=(30, 30)) == "table"  # one is read already, and still to come
    assert list(next(tracker).masks) == ["cup", "table"]
    words = "this tracker has given its last frame; begin another one with track"
    with pytest.raises(pedsam.SessionClosed, match=words):
        tracker.prompt("chair", points=(9, 9))
    async with pedsam.open_async(threads=1) as other:
        followed = other.track(film(1), [CUP])
        _ = [frame async for frame in followed]
        with pytest.raises(pedsam.SessionClosed, match=words):
            await followed.prompt("cup", points=(300, 190))


def test_pictures_without_order_cannot_be_followed() -> None:
    with (
        pedsam.open(films=False, threads=1) as session,
        pytest.raises(pedsam.InputError, match="films=False"),
    ):
        session.track(film(1), [CUP])


@pytest.mark.parametrize("wrong", [{"keyframe_every": 0}, {"in_flight": 0}, {"in_flight": 17}])
def test_options_have_bounds(session: pedsam.Session, wrong: dict[str, int]) -> None:
    with pytest.raises(pedsam.ArgumentError, match="keyframe_every is at least 1, and in_flight 1 to 16"):
        session.track(film(1), [CUP], **wrong)  # type: ignore[arg-type]


async def test_the_same_with_a_loop(session: pedsam.Session, unblocked_loop: None) -> None:
    async def frames() -> AsyncIterator[Any]:
        for pixels in film(4):
            yield pixels

    def alone() -> tuple[list[tuple[Any, ...]], list[Any], Any]:
        predictor = session.predictor()
        predictor.set_image(photo("16:9"))
        followed = lines_of(list(session.track(film(4), [CUP, TABLE])))
        return followed, session.segment(photo("16:9"), boxes=BOX).rle(), predictor.predict(box=BOX)[2]

    expected, rle, logits = await to_thread.run_sync(alone)
    async with pedsam.open_async(threads=1) as other:
        for given in (frames(), film(4)):
            tracker = other.track(given, [CUP, TABLE], in_flight=2)
            assert lines_of([frame async for frame in tracker]) == expected
        async with other.track(film(4)) as tracker:
            await anext(tracker)
            assert await tracker.prompt("cup", box=BOX) == "cup"
            assert (await anext(tracker)).masks["cup"].any()
            tracker.remove("cup")
        masks = await other.segment(photo("16:9"), boxes=BOX)
        assert masks.rle() == rle
        predictor = other.predictor()
        await predictor.set_image(photo("16:9"))
        assert np.array_equal((await predictor.predict(box=BOX))[2], logits)
        assert other.exposure().operators == {}
    with pytest.raises(pedsam.SessionClosed, match="the session is closed"):
        await other.segment(photo("16:9"), boxes=BOX)


async def test_before_it_is_open_it_is_a_sentence() -> None:
    session = pedsam.open_async()
    with pytest.raises(pedsam.SessionClosed, match="use it inside `async with"):
        await session.segment(photo("16:9"), boxes=BOX)
