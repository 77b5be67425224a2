"""A session in one process: its masks, what it says of wrong arguments, and how it ends."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco

import pedsam
from runtime.objects.masks import decode_mask
from tests.support.edge import sites_file, write_photo
from tests.support.pictures import photo

ROOT = Path(__file__).parents[3]
BOX = (150.0, 60.0, 450.0, 300.0)
POINT = (30.0, 30.0)
FRAME = photo("16:9")


def test_masks_are_those_of_a_run(session: pedsam.Session, tmp_path: Path) -> None:
    picture = write_photo(tmp_path / "cup.png")
    line = ["run", "--source", str(picture), "--box", "150,60,450,300", "--point", "30,30", "--threads", "1"]
    done = CliRunner().invoke(pedsam.main, [*line, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    lines = [json.loads(text) for text in (tmp_path / "out/masks.jsonl").read_text().splitlines()]
    for frame in (FRAME, picture, str(picture), Image.fromarray(FRAME)):
        found = [session.segment(frame, boxes=BOX), session.segment(frame, points=POINT)]
        for masks, expected in zip(found, lines, strict=True):
            assert masks.rle() == [expected["segmentation"]]
            assert masks.area.tolist() == [expected["area"]]
            left, top, width, height = expected["bbox"]
            assert masks.boxes.tolist() == [[left, top, left + width, top + height]]
            assert masks.scores == pytest.approx([expected["predicted_iou"]], abs=1e-4)


def test_arrays_have_the_shapes_that_are_documented(session: pedsam.Session) -> None:
    masks = session.segment(FRAME, points=[[270, 150], POINT], multimask=True)
    assert (masks.masks.dtype.name, masks.masks.shape) == ("bool", (2, 3, 360, 640))
    assert (masks.scores.dtype.name, masks.scores.shape) == ("float32", (2, 3))
    assert (masks.logits.dtype.name, masks.logits.shape) == ("float32", (2, 3, 96, 96))
    assert masks.area.shape == (2, 3)
    assert masks.boxes.shape == (2, 3, 4)
    assert len(masks.masks) == 2
    for three, encoded in zip(masks.masks, masks.rle(), strict=True):
        for mask, rle in zip(three, encoded, strict=True):
            assert np.array_equal(coco.decode(rle).astype(bool), mask)
            assert np.array_equal(decode_mask(rle), mask)
    best = session.segment(FRAME, points=[[270, 150], POINT])
    first, second = best.scores
    assert repr(best) == f"Masks(of 2 on 640 x 360, scores=[{first:.2f}, {second:.2f}])"
    assert repr(masks).startswith("Masks(of 2 on 640 x 360, scores=[[")
    assert np.array_equal(masks.best().masks, best.masks)
    assert masks.best().scores.tolist() == best.scores.tolist() == masks.scores.max(axis=1).tolist()
    assert best.best() is best
    assert (best.sites, best.kept, best.doubtful) == (frozenset(), frozenset(), False)


def test_prompts_of_several_objects_are_those_of_one_after_another(session: pedsam.Session) -> None:
    boxes = [BOX, (10, 10, 200, 200)]
    points = [[(300, 190), (60, 350)], [(100, 100)]]
    labels = [[1, 0], [1]]
    together = session.segment(FRAME, boxes=np.array(boxes), points=points, labels=labels)
    for number, box in enumerate(boxes):
        alone = session.segment(FRAME, boxes=box, points=[points[number]], labels=[labels[number]])
        assert np.array_equal(alone.masks[0], together.masks[number])
    without = session.segment(FRAME, boxes=BOX, points=[points[0]])
    assert not np.array_equal(without.masks[0], together.masks[0])  # the label 0 counts


def test_more_objects_than_one_call_of_the_decoder_takes(session: pedsam.Session) -> None:
    boxes = [(x, 20, x + 150, 200) for x in range(0, 400, 20)]
    together = session.segment(FRAME, boxes=boxes)
    assert len(together.masks) == 20
    assert len(repr(together)) < 200
    assert np.array_equal(together.masks[17], session.segment(FRAME, boxes=boxes[17]).masks[0])


@pytest.mark.parametrize(
    "none",
    [{"boxes": []}, {"boxes": np.zeros((0, 4))}, {"points": []}, {"points": np.zeros((0, 2)), "labels": []}],
)
def test_no_objects_have_no_masks(session: pedsam.Session, none: dict[str, Any]) -> None:
    masks = session.segment(FRAME, **none)
    assert (masks.masks.shape, masks.scores.shape, masks.rle()) == ((0, 360, 640), (0,), [])


def test_opencv_reads_bgr(session: pedsam.Session) -> None:
    rgb = session.segment(FRAME, boxes=BOX)
    assert np.array_equal(session.segment(FRAME[..., ::-1], boxes=BOX, image_format="BGR").masks, rgb.masks)
    assert not np.array_equal(session.segment(FRAME[..., ::-1], boxes=BOX).logits, rgb.logits)


FRAMES: dict[str, tuple[Any, str]] = {
    "float": (FRAME / 255, r"a frame is float64, expected uint8 .*: of values 0 to 1, \(frame \* 255\)"),
    "int": (FRAME.astype(np.int64), "a frame is int64, expected uint8"),
    "grey": (FRAME[..., 0], r"a frame has the shape \[360, 640\], expected .*: of grey, np.stack"),
    "alpha": (np.zeros((9, 9, 4), np.uint8), r"without alpha, frame\[\.\.\., :3\]"),
    "channels first": (FRAME.transpose(2, 0, 1), r"of channels first, frame.transpose\(1, 2, 0\)"),
    "several": (np.stack([FRAME, FRAME]), "one frame a call"),
    "empty": (np.zeros((0, 0, 3), np.uint8), r"the shape \[0, 0, 3\]"),
    "a list": (FRAME.tolist(), "a frame is a list, expected a numpy array, a Pillow image or the path"),
    "deep": (Image.new("I;16", (9, 9)), "a Pillow image of mode I;16"),
    "gone": ("gone.jpg", "picture gone.jpg cannot be read"),
}


@pytest.mark.parametrize(("frame", "words"), FRAMES.values(), ids=FRAMES)
def test_a_frame_that_is_none_is_a_sentence(session: pedsam.Session, frame: Any, words: str) -> None:
    kind = pedsam.InputError if isinstance(frame, str) else pedsam.ArgumentError
    with pytest.raises(kind, match=words):
        session.segment(frame, boxes=BOX)


PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "nothing to segment: give boxes, points, or both"),
    "outside": ({"boxes": [700, 10, 800, 90]}, "the box of object 1 lies outside the frame of 640 x 360"),
    "point outside": ({"points": [(9, 9), (9, 400)]}, "point 9,400 of object 2 lies outside the frame"),
    "width and height": ({"boxes": [300, 200, 100, 90]}, "left < right and top < bottom, not a width"),
    "not a number": ({"boxes": [0, 0, np.nan, 9]}, "is not a finite number"),
    "words": ({"boxes": "all"}, "boxes are no array of numbers"),
    "a pair": ({"boxes": [[1, 2]]}, r"boxes have the shape \[1, 2\], expected \[N, 4\]"),
    "three numbers": ({"points": [[1, 2, 1]]}, "points are x, y each"),
    "no points": ({"points": [[], [(1, 2)]]}, "points are x, y each"),
    "labels alone": ({"boxes": BOX, "labels": [1]}, "labels are given without points"),
    "other labels": ({"points": [(9, 9)], "labels": [2]}, "labels are 1 for what belongs"),
    "fewer labels": ({"points": [[(9, 9), (5, 5)]], "labels": [[1]]}, "has 2 points and 1 labels"),
    "labels of others": ({"points": [(9, 9)], "labels": [1, 0]}, "labels of 2 objects and points of 1"),
    "fewer points": ({"boxes": [BOX, BOX], "points": [(9, 9)]}, "2 boxes and points of 1 objects"),
    "background alone": ({"points": [[(9, 9), (5, 5)]], "labels": [[0, 0]]}, "object 1 has only background"),
    "points of one object": (
        {"points": [POINT, (9, 9)], "labels": [1, 0]},
        r"object 2 is a background point alone .* points=\[\[\[x, y\], \[x, y\]\]\], labels=\[\[1, 0\]\]",
    ),
    "format": ({"boxes": BOX, "image_format": "HSV"}, "image_format is 'HSV', expected \"RGB\""),
}


def test_a_pillow_image_that_cannot_be_read_is_a_sentence(session: pedsam.Session, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.png")
    with Image.open(path) as closed:
        pass
    in_memory = Image.fromarray(FRAME)
    in_memory.close()
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:5000])
    with Image.open(tmp_path / "cut.png") as cut:
        for frame in (closed, in_memory, cut):
            with pytest.raises(
                pedsam.ArgumentError, match=r"the frame is a Pillow image that cannot be read \("
            ):
                session.segment(frame, boxes=BOX)


@pytest.mark.parametrize(("prompts", "words"), PROMPTS.values(), ids=PROMPTS)
def test_prompts_that_cannot_be_meant_are_a_sentence(
    session: pedsam.Session, prompts: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        session.segment(FRAME, **prompts)
    assert isinstance(caught.value, pedsam.ArgumentError | pedsam.InputError)


def test_coordinates_within_one_pixel_are_doubted(
    session: pedsam.Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.segment(FRAME, boxes=[0.1, 0.1, 0.9, 0.9])
    assert "coordinates are pixels of the frame, not shares" in caplog.text


def test_threads_may_share_a_session(session: pedsam.Session) -> None:
    boxes = [(x, 20, x + 200, 300) for x in range(0, 400, 50)]
    expected = [session.segment(FRAME, boxes=box).masks for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda box: session.segment(FRAME, boxes=box).masks, boxes))
    assert all(map(np.array_equal, found, expected))


def test_after_closing_every_call_is_a_sentence() -> None:
    with pedsam.open(threads=1) as session:
        predictor, tracker = session.predictor(), session.track([FRAME], [{"box": BOX}])
    session.close()
    assert session.closed
    calls: list[Callable[[], object]] = [
        lambda: session.segment(FRAME, boxes=BOX),
        session.predictor,
        session.exposure,
        lambda: session.track([FRAME]),
        lambda: predictor.set_image(FRAME),
        lambda: next(tracker),
        session.__enter__,
    ]
    for call in calls:
        with pytest.raises(pedsam.SessionClosed, match="the session is closed; open another one"):
            call()


def test_without_sites_nobody_has_seen_anything(session: pedsam.Session) -> None:
    exposure = session.exposure()
    assert (exposure.operators, exposure.grid, exposure.kept) == ({}, 5, frozenset())


def test_it_says_which_model_it_has(session: pedsam.Session) -> None:
    assert session.model.startswith("mini (distilled weights")


# Threads and processes


def own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each is not threading.main_thread()}


def gone(threads: set[threading.Thread], within_s: float = 10.0) -> bool:
    """Whether these threads end by then."""
    deadline_s = time.monotonic() + within_s
    for each in threads:
        each.join(max(0.0, deadline_s - time.monotonic()))
    return not any(each.is_alive() for each in threads)


def test_a_session_that_nobody_holds_ends_its_threads() -> None:
    before = own_threads()
    session = pedsam.open(threads=1)
    tracker = session.track([FRAME] * 3, [{"box": BOX}], in_flight=3)
    next(tracker)
    started = own_threads() - before
    assert {"pedsam session", "engines"} <= {each.name for each in started}
    del session, tracker
    gc.collect()
    assert gone(started)


def test_an_opening_that_fails_ends_its_threads(tmp_path: Path) -> None:
    before = own_threads()
    path = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    with pytest.raises(pedsam.InputError, match=r"site|window"):
        pedsam.open(sites=path, sizes=[(360, 640)], when_sites_fail="lose", threads=1)
    assert gone(own_threads() - before)


@contextmanager
def silent_site() -> Iterator[str]:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_ctrl_c_interrupts_a_call(tmp_path: Path) -> None:
    """While sites are waited for, which takes many seconds."""
    before = own_threads()
    with silent_site() as first, silent_site() as second:
        path = sites_file(tmp_path / "sites.toml", ("a", first), ("b", second))
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        started_s = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pedsam.open(sites=path, sizes=[(360, 640)], when_sites_fail="lose", threads=1)
        assert time.monotonic() - started_s < 5
    assert gone(own_threads() - before)


def test_after_ctrl_c_the_session_goes_on(session: pedsam.Session) -> None:
    def frames() -> Iterator[Any]:
        yield FRAME
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    tracker = session.track(frames(), [{"box": BOX}])
    next(tracker)
    with pytest.raises(KeyboardInterrupt):
        next(tracker)
    assert session.segment(FRAME, boxes=BOX).area[0] > 0


def test_a_forked_process_is_told(session: pedsam.Session) -> None:
    """Instead of waiting for ever for a thread that it does not have."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says the same
        child = os.fork()
    if not child:
        try:
            session.segment(FRAME, boxes=BOX)
        except pedsam.SessionClosed as exc:
            os.write(writing, str(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "the session belongs to the process that opened it; open one in each process"
    os.waitpid(child, 0)
    assert session.segment(FRAME, boxes=BOX).area[0] > 0


def test_what_belongs_to_a_process_is_neither_pickled_nor_copied(session: pedsam.Session) -> None:
    each = session, session.predictor(), session.track([FRAME]), pedsam.open_async()
    for one in each:
        for act in (pickle.dumps, copy.copy):
            words = f"a {type(one).__name__} can be neither pickled nor copied, .*: open a session in each"
            with pytest.raises(TypeError, match=words):
                act(one)


def test_a_session_that_is_left_open_keeps_no_process_alive() -> None:
    code = "import numpy, pedsam; s = pedsam.open(threads=1); p = s.predictor(); print(s.model)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mini")
