"""What is written and drawn of tracked, carried and lost objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from runtime.live import ShownObject
from runtime.prompts import Prompt
from runtime.sinks import PALETTE, MaskLines, Result, ResultObject, decode_mask, draw_overlay
from runtime.sources import Frame

GREY = np.full((120, 160, 3), 128, np.uint8)
MASK = np.zeros((120, 160), bool)
MASK[20:60, 30:90] = True


def result(*objects: ShownObject) -> Result:
    return Result(Frame(3, "c", 0.12345, GREY), tuple(ResultObject(each, None) for each in objects))


def test_every_object_has_a_line_and_a_lost_one_no_mask(tmp_path: Path) -> None:
    lines = MaskLines(tmp_path / "masks.jsonl", "distilled")
    lines.write(
        result(
            ShownObject("cup", 0, "tracked", 0.91239, MASK),
            ShownObject("dog", 1, "carried", 0.5, MASK),
            ShownObject("cat", 2, "lost", 0.0, None),
        )
    )
    lines.close()
    cup, dog, cat = map(json.loads, (tmp_path / "masks.jsonl").read_text().splitlines())
    assert [entry["state"] for entry in (cup, dog, cat)] == ["tracked", "carried", "lost"]
    assert np.array_equal(decode_mask(cup["segmentation"]), MASK)
    assert (cup["bbox"], cup["area"], cup["predicted_iou"]) == ([30, 20, 60, 40], 2400, 0.9124)
    assert (cup["frame"], cup["time_s"], cup["object"]) == (3, 0.1235, "cup")
    assert (cat["segmentation"], cat["bbox"], cat["area"]) == (None, None, 0)


def test_a_carried_mask_is_outlined_and_not_filled() -> None:
    tracked = draw_overlay(result(ShownObject("cup", 1, "tracked", 0.9, MASK)), None)
    carried = draw_overlay(result(ShownObject("cup", 1, "carried", 0.9, MASK)), None)
    assert tuple(tracked[20, 50]) == tuple(carried[20, 50]) == PALETTE[1]
    assert not np.array_equal(tracked[40, 60], GREY[40, 60])
    assert np.array_equal(carried[40, 60], GREY[40, 60])


def test_a_lost_object_is_named_and_nothing_else_is_drawn() -> None:
    overlay = draw_overlay(result(ShownObject("cup", 1, "lost", 0.0, None)), None)
    assert np.array_equal(overlay[:90], GREY[:90])
    assert not np.array_equal(overlay[90:], GREY[90:])


def test_colours_belong_to_objects_not_to_places() -> None:
    overlay = draw_overlay(result(ShownObject("b", 4, "tracked", 0.9, MASK)), None)
    assert tuple(overlay[20, 50]) == PALETTE[4]
    again = draw_overlay(result(ShownObject("b", 4 + len(PALETTE), "tracked", 0.9, MASK)), None)
    assert np.array_equal(overlay, again)


def test_prompts_are_drawn_in_their_objects_colour() -> None:
    shown = ShownObject("a", 2, "tracked", 0.9, np.zeros_like(MASK))
    drawn = Result(Frame(0, "a", 0, GREY), (ResultObject(shown, Prompt("a", (10, 10, 140, 100))),))
    assert tuple(draw_overlay(drawn, None)[10, 70]) == PALETTE[2]
