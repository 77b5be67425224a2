"""What of an object is counted as sent, and the tables of the page."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.kept_objects import Counting, Sent, by_window, together
from runtime.frames.canvas import make_canvas
from runtime.frames.sources import Frame
from runtime.objects.masks import Mask
from runtime.objects.tracking import TrackState
from runtime.results.result import FrameResult, ObjectResult
from stages.geometry import GEOMETRIES

MINI = GEOMETRIES["mini"]


def rectangle(top: int, left: int, bottom: int, right: int) -> Mask:
    """In a frame of 480 x 854, of which mini's canvas shows 216 x 384 and a window 178 x 178 pixels."""
    mask = np.zeros((480, 854), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_pixels_are_counted_in_the_windows_that_show_them() -> None:
    mask = rectangle(100, 170, 110, 190)
    found = by_window(mask, MINI)
    assert found.sum() == 200
    assert set(np.flatnonzero(found)) == {0, 1}
    picture = np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    canvas = make_canvas(picture, MINI)
    light = [int(canvas.tile(window).sum()) for window in (0, 1)]
    assert found[0] / found.sum() == pytest.approx(light[0] / sum(light), abs=0.03)
    assert by_window(rectangle(0, 0, 480, 854), MINI).nonzero()[0].tolist() == list(canvas.windows)


def test_what_is_in_windows_that_were_not_kept_was_sent() -> None:
    sent, pixels = Sent(), np.array([0, 30, 10, 0])
    assert Sent().share is None
    sent.add(pixels, {1, 2})
    assert (sent.share, sent.frames) == (0, 0)
    sent.add(pixels, {0, 1})
    assert (sent.share, sent.frames) == (10 / 80, 1)


def result(number: int, mask: Mask | None, kept: set[int]) -> FrameResult:
    frame = Frame(number, str(number), 0.0, np.zeros((480, 854, 3), np.uint8))
    found = ObjectResult("object", 0, TrackState.TRACKED if mask is not None else TrackState.LOST, 1.0, mask)
    return FrameResult(frame, (found,), kept=frozenset(kept))


def test_true_masks_and_own_ones_are_counted_apart() -> None:
    """The run finds half of what there is, keeps the window of that, and then finds nothing."""
    true, own = rectangle(10, 160, 20, 196), rectangle(10, 160, 20, 178)
    picture = np.zeros((480, 854, 3), np.uint8)
    counting = Counting([(picture, true)] * 2, MINI)
    counting.write(result(0, own, {0, 24}))  # 24 holds no picture
    counting.write(result(1, None, set(range(15))))
    row = counting.row()
    assert (row["frames"], row["frames_without_mask"]) == (2, 1)
    assert row["true_pixels_sent"] == pytest.approx(0.25, abs=0.01)
    assert row["frames_with_true_pixels_sent"] == 1
    assert (row["own_pixels_sent"], row["frames_with_own_pixels_sent"]) == (0, 0)
    assert row["windows_kept"] == pytest.approx((1 / 15 + 1) / 2)


def test_clips_count_alike() -> None:
    rows = [
        {
            "margin": 0.25,
            "in_flight": 3,
            "frames": frames,
            "frames_without_mask": 0,
            "true_pixels_sent": share,
            "frames_with_true_pixels_sent": 4,
            "own_pixels_sent": 0.0,
            "frames_with_own_pixels_sent": 0,
            "windows_kept": 0.5,
        }
        for frames, share in ((50, 0.1), (10, 0.3))
    ]
    found = together(rows)
    assert (found["frames"], found["frames_with_true_pixels_sent"]) == (60, 8)
    assert (found["margin"], found["true_pixels_sent"]) == (0.25, pytest.approx(0.2))
