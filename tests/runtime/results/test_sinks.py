"""What is written and drawn of tracked, carried and lost objects."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest

from runtime.frames.sources import Frame
from runtime.objects.masks import decode_mask
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.results import sinks
from runtime.results.doubts import Doubt
from runtime.results.recording import Recording
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import (
    PALETTE,
    FromFirstResult,
    MaskLines,
    OverlayPictures,
    Sink,
    closing_all,
    draw_overlay,
)
from runtime.results.verify import _read_masks
from stages.errors import InputError
from stages.strips import row_strips
from tests.support.disks import limited_to

GREY = np.full((120, 160, 3), 128, np.uint8)
MASK = np.zeros((120, 160), bool)
MASK[20:60, 30:90] = True


def result(*objects: ObjectResult) -> FrameResult:
    return FrameResult(Frame(3, "c", 0.12345, GREY), objects)


def test_every_object_has_a_line_and_a_lost_one_no_mask(tmp_path: Path) -> None:
    lines = MaskLines(tmp_path / "masks.jsonl", "distilled")
    lines.write(
        result(
            ObjectResult("cup", 0, TrackState.TRACKED, 0.91239, MASK, trust=Trust(0.84129)),
            ObjectResult("dog", 1, TrackState.CARRIED, 0.5, MASK, trust=Trust(0.3, Check.SHRANK)),
            ObjectResult("cat", 2, TrackState.LOST, 0.0, None),
        )
    )
    lines.close()
    cup, dog, cat = map(json.loads, (tmp_path / "masks.jsonl").read_text().splitlines())
    assert [entry["state"] for entry in (cup, dog, cat)] == ["tracked", "carried", "lost"]
    assert np.array_equal(decode_mask(cup["segmentation"]), MASK)
    assert (cup["bbox"], cup["area"], cup["predicted_iou"]) == ([30, 20, 60, 40], 2400, 0.9124)
    assert (cup["frame"], cup["time_s"], cup["object"]) == (3, 0.1235, "cup")
    assert [entry["confidence"] for entry in (cup, dog, cat)] == [0.8413, 0.3, 0.0]
    assert [entry["check"] for entry in (cup, dog, cat)] == [None, "shrank", None]
    assert (cat["segmentation"], cat["bbox"], cat["area"]) == (None, None, 0)


def test_a_doubt_is_a_line_that_names_frames_and_readers_of_masks_pass_over_it(tmp_path: Path) -> None:
    """Also through sinks that hold others."""
    cup = result(ObjectResult("cup", 0, TrackState.TRACKED, 0.9, MASK))
    made = FromFirstResult(
        lambda: [Recording(tmp_path, 10**6, lambda folder: [MaskLines(folder / "masks.jsonl", "distilled")])]
    )
    doubt = Doubt("b", [(1, 3)], "site b: lies")
    made.doubt(doubt)  # of frames that were written; there are none
    made.write(cup)
    made.doubt(doubt)
    made.write(replace(cup, doubtful=True))
    made.close()
    file = tmp_path / "part_00000001/masks.jsonl"
    first, told, second = map(json.loads, file.read_text().splitlines())
    assert told == {"doubtful_frames": [[1, 3]], "site": "b", "reason": "site b: lies"}
    assert (first["doubtful"], second["doubtful"]) == (False, True)
    assert list(_read_masks(file)) == [3]


def test_a_frame_in_doubt_says_so_on_its_overlay() -> None:
    cup = result(ObjectResult("cup", 0, TrackState.TRACKED, 0.9, MASK))
    plain, marked = draw_overlay(cup, None), draw_overlay(replace(cup, doubtful=True), None)
    changed = np.argwhere((plain != marked).any(axis=2))
    assert len(changed) > 100
    assert changed[:, 0].min() > 100  # at the lower edge


def test_a_file_name_that_is_no_utf_8_is_escaped_once(tmp_path: Path) -> None:
    """Strict readers of JSON refuse half a surrogate pair, which Python writes for such a byte."""
    lines = MaskLines(tmp_path / "masks.jsonl", "distilled")
    lost = ObjectResult("cat", 2, TrackState.LOST, 0.0, None)
    lines.write(FrameResult(Frame(0, os.fsdecode(b"photo_\xe9"), 0.0, GREY), (lost,)))
    lines.close()
    (line,) = (tmp_path / "masks.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["source"] == "photo_\\udce9"
    json.loads(line)["source"].encode()


def test_a_carried_mask_is_outlined_and_not_filled() -> None:
    tracked = draw_overlay(result(ObjectResult("cup", 1, TrackState.TRACKED, 0.9, MASK)), None)
    carried = draw_overlay(result(ObjectResult("cup", 1, TrackState.CARRIED, 0.9, MASK)), None)
    assert tuple(tracked[20, 50]) == tuple(carried[20, 50]) == PALETTE[1]
    assert not np.array_equal(tracked[40, 60], GREY[40, 60])
    assert np.array_equal(carried[40, 60], GREY[40, 60])


@pytest.mark.parametrize("strip", [1 << 24, 1000])
def test_a_mask_is_tinted_where_it_is_and_nowhere_else(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the mean of picture and colour by the plain formula, within one step of 255."""
    monkeypatch.setattr(sinks, "row_strips", partial(row_strips, pixels=strip))
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    for mask in (
        MASK[:90, :120],
        np.random.default_rng(1).random((90, 120)) > 0.5,
        np.zeros((90, 120), bool),
    ):
        tinted = picture.copy()
        sinks._tint(tinted, np.ascontiguousarray(mask), PALETTE[0])
        plain = np.where(mask[..., None], 0.55 * picture + 0.45 * np.array(PALETTE[0]), picture)
        assert np.abs(tinted - plain).max() <= 1
        np.testing.assert_array_equal(tinted[~mask], picture[~mask])


def test_a_lost_object_is_named_and_nothing_else_is_drawn() -> None:
    overlay = draw_overlay(result(ObjectResult("cup", 1, TrackState.LOST, 0.0, None)), None)
    assert np.array_equal(overlay[:90], GREY[:90])
    assert not np.array_equal(overlay[90:], GREY[90:])


def test_colours_belong_to_objects_not_to_places() -> None:
    overlay = draw_overlay(result(ObjectResult("b", 4, TrackState.TRACKED, 0.9, MASK)), None)
    assert tuple(overlay[20, 50]) == PALETTE[4]
    again = draw_overlay(result(ObjectResult("b", 4 + len(PALETTE), TrackState.TRACKED, 0.9, MASK)), None)
    assert np.array_equal(overlay, again)


def test_prompts_are_drawn_in_their_objects_colour() -> None:
    prompt = Prompt("a", (10, 10, 140, 100))
    found = ObjectResult("a", 2, TrackState.TRACKED, 0.9, np.zeros_like(MASK), prompt)
    assert tuple(draw_overlay(result(found), None)[10, 70]) == PALETTE[2]


def test_a_disk_that_is_full_is_told_once() -> None:
    """/dev/full takes nothing."""
    masks = MaskLines(Path("/dev/full"), "distilled")
    with pytest.raises(InputError, match="cannot write /dev/full; check free space"):
        masks.write(result(ObjectResult("cup", 0, TrackState.TRACKED, 0.9, MASK)))
    masks.close()


def test_lines_of_a_disk_that_fills_are_whole(tmp_path: Path) -> None:
    found = result(ObjectResult("cup", 0, TrackState.TRACKED, 0.9, MASK))
    masks = MaskLines(tmp_path / "masks.jsonl", "distilled")
    masks.write(found)
    one = (tmp_path / "masks.jsonl").stat().st_size
    with limited_to(one + 10), pytest.raises(InputError, match="cannot write"):
        masks.write(found)
    masks.close()
    lines = (tmp_path / "masks.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert {json.loads(line)["object"] for line in lines} == {"cup"}


class Broken(Sink):
    """Cannot be closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def write(self, result: FrameResult) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        raise InputError(f"{self.name} cannot be closed")


@pytest.mark.anyio
async def test_every_sink_is_closed_and_the_first_error_is_told() -> None:
    sinks = [Broken("a"), Broken("b")]
    with pytest.raises(InputError, match="a cannot be closed"):
        async with closing_all(sinks):
            pass
    assert all(sink.closed for sink in sinks)
    with pytest.raises(ZeroDivisionError):
        async with closing_all(sinks):
            raise ZeroDivisionError


@pytest.mark.anyio
async def test_sinks_are_closed_in_a_thread_also_when_cancelled() -> None:
    class Slow(Sink):
        thread: int | None = None

        def write(self, result: FrameResult) -> None:
            pass

        def close(self) -> None:
            self.thread = threading.get_ident()

    sink = Slow()
    with anyio.CancelScope() as scope:
        async with closing_all([sink]):
            scope.cancel()
            await anyio.sleep_forever()
    assert sink.thread not in (None, threading.get_ident())


def test_a_picture_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    pictures = OverlayPictures(tmp_path, None)
    with limited_to(100), pytest.raises(InputError, match=r"cannot write .*c\.jpg; check .*File too large"):
        pictures.write(result())
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_no_jpeg_holds_is_one_sentence(tmp_path: Path) -> None:
    wide = FrameResult(Frame(0, "wide", 0.0, np.zeros((1, 65_536, 3), np.uint8)), ())
    with pytest.raises(InputError, match="a JPEG cannot hold 65536 x 1 pixels"):
        OverlayPictures(tmp_path, None).write(wide)


def test_a_frame_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    noted: list[Path] = []
    frame = Frame(0, "a\udce9", 0.0, GREY)
    OverlayPictures(tmp_path, None, noted.append).write(FrameResult(frame, ()))
    assert noted == list(tmp_path.iterdir()) == [tmp_path / "a\udce9.jpg"]
