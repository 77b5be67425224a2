"""What benchmarks.trust counts: marks by true IoU, how confidence ranks, limits chosen on other films."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.trust import (
    GRID,
    Judged,
    Run,
    area_under_curve,
    chosen_elsewhere,
    gain,
    judge,
    markdown,
    marks,
    prompts_of,
    rank_correlation,
    results,
)
from runtime.objects.trust import LIMITS
from tests.support.documents import table_rows

SQUARE = np.zeros((24, 24), np.float32)
SQUARE[8:16, 8:16] = 1


def run(*masks: tuple[float, float]) -> Run:
    """A film whose masks have this rating, which is their agreement too, and this IoU; the first is right."""
    first = Judged(0.9, None, SQUARE, 0.9)
    return Run([first, *(Judged(rating, rating, SQUARE, iou) for rating, iou in masks)], lost=1)


def test_marks_are_counted_by_iou_without_first_frames() -> None:
    counts = marks(judge([run((0.9, 0.9), (0.65, 0.8), (0.5, 0.2), (0.8, 0.4))], LIMITS))
    assert counts["right"] == {"masks": 2, "marked": 1, "why": {"unsure": 1}}
    assert counts["wrong"] == {"masks": 2, "marked": 1, "why": {"unsure": 1}}
    assert counts["0 to 0.3"] == {"masks": 1, "marked": 1}
    assert counts["0.3 to 0.5"] == {"masks": 1, "marked": 0}
    assert counts["0.7 to 1"] == {"masks": 2, "marked": 1}
    assert gain(counts) == 0.0


def test_how_often_a_right_one_is_ahead_of_a_wrong_one() -> None:
    assert area_under_curve([0.9, 0.8, 0.3, 0.1], [True, True, False, False]) == 1.0
    assert area_under_curve([0.9, 0.2, 0.3, 0.2], [True, True, False, False]) == 0.625
    assert area_under_curve([0.9], [True]) is None
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)


def test_limits_for_a_film_are_chosen_on_the_others() -> None:
    """On film a a limit of 0.8 finds the wrong mask; on b it would mark the right ones."""
    films = {"a": [run((0.78, 0.4), (0.9, 0.9))], "b": [run((0.78, 0.9), (0.62, 0.4))]}
    best = {
        name: max(GRID, key=lambda limits, runs=runs: gain(marks(judge(runs, limits))))  # type: ignore[misc]
        for name, runs in films.items()
    }
    assert best["a"].confidence == 0.8
    assert best["b"].confidence == 0.65
    counts = chosen_elsewhere(films)
    assert counts["right"]["marked"] == 1  # of b, by the limit of a
    assert counts["wrong"] == {"masks": 2, "marked": 1, "why": {"unsure": 1}}


def test_an_object_is_asked_for_by_its_box_and_from_its_middle() -> None:
    truth = np.zeros((60, 80), bool)
    truth[10:31, 20:41] = True
    box, point = prompts_of(truth)
    assert box.box_xyxy == (20, 10, 41, 31)
    assert point.points == ((30, 20, 1),)
    assert prompts_of(np.zeros((60, 80), bool)) == []


def test_the_table_has_a_row_for_each_film_and_other_limits() -> None:
    films = {"a": [run((0.5, 0.4), (0.9, 0.9))], "b": [run((0.9, 0.9), (0.8, 0.8))]}
    alone = {"a": [Run([Judged(0.5, None, None, 0.3)])]}
    machine = {"cpu": "AMD EPYC 7", "cores": 2, "date": "2026-11-28", "commit": "abc"}
    found = {"machine": machine, "model": "mini", **results(films, alone)}
    text = markdown(found)
    rows = {row[0]: row[1:] for row in table_rows(text)}
    assert rows["all"] == ["", "100 % of 1", "", "0 % of 3", "0 % of 3", "100 % of 1", "1.00"]
    assert rows["b"] == ["", "", "", "0 % of 2", "0 % of 2", "", ""]
    assert "each frame as a picture of its own" in rows
    assert "2 runs" in text
    assert "Wrong masks are marked as unsure 1; right ones as nothing. Judging a mask takes 0." in text
    assert found["limits"] == vars(replace(LIMITS))
