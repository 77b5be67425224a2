"""Tiles registered over time: a scene that moves is put together, one that stands still is not."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.audit.mosaic import Pasting, shift
from evaluation.audit.play import Received
from evaluation.audit.views import pooled, view_of
from runtime.demo.demo import photo
from runtime.frames.canvas import Canvas, make_canvas
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB

MINI = GEOMETRIES["mini"]
HELD = (0, 2, 4, 11, 13)


def frame(x: int, y: int = 0) -> Canvas:
    """384 x 216 pixels of a photograph from x, y on: as large as the canvas, so nothing is resized."""
    return make_canvas(np.ascontiguousarray(photo("coffee")[80 + y : 296 + y, x : x + 384]), MINI)


def received(canvas: Canvas, *windows: int) -> Received:
    coded = RGB.encode(canvas.pixels, canvas.extents[list(windows)], windows, MINI)
    return {"a": dict(zip(windows, coded, strict=True))}


def test_the_shift_of_a_scene_is_found() -> None:
    before, after = (
        view_of(MINI, RGB, canvas, pooled(received(canvas, *HELD), "a"))
        for canvas in (frame(40, 10), frame(33, 14))
    )
    assert shift(before, after, MINI) == pytest.approx([7, -4], abs=0.5)


def test_a_pan_shows_what_lies_beside_the_windows() -> None:
    pasting = Pasting(frame(0), RGB, ["a"])
    for step in range(10):
        pasting.add(frame(8 * step), received(frame(8 * step), *HELD))
    rows = {row["frames"]: row for row in pasting.rows}
    assert sorted(rows) == [1, 2, 5, 10]
    assert rows[1]["covered_most"] == pytest.approx(rows[1]["recovered_most"], abs=0.06)
    assert rows[10]["recovered_most"] > rows[1]["recovered_most"] + 0.15
    assert all(row["recovered_most"] <= row["covered_most"] for row in rows.values())


def test_a_scene_that_stands_still_shows_no_more() -> None:
    pasting = Pasting(frame(0), RGB, ["a"])
    for _ in range(5):
        pasting.add(frame(0), received(frame(0), *HELD))
    first, *_, last = pasting.rows
    assert last["recovered_most"] == first["recovered_most"]


def test_frames_without_a_tile_change_nothing() -> None:
    pasting = Pasting(frame(0), RGB, ["a"])
    pasting.add(frame(0), {"a": {}})
    assert pasting.rows[0]["covered_most"] == 0
    pasting.add(frame(0), received(frame(0), *HELD))
    assert pasting.rows[1]["covered_most"] > 0.3


def test_what_is_pasted_and_wrong_is_not_recovered() -> None:
    """Frames of another scene cover what the first ones left open."""
    pasting = Pasting(frame(0), RGB, ["a"])
    pasting.add(frame(0), received(frame(0), *HELD))
    other = make_canvas(np.ascontiguousarray(frame(0).pixels[:216, :, ::-1] // 2), MINI)
    pasting.add(other, received(other, *(window for window in other.windows if window not in HELD)))
    first, second = pasting.rows
    assert second["covered_most"] > 0.95
    assert second["recovered_most"] < first["recovered_most"] + 0.2
