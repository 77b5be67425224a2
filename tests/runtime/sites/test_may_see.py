"""What is said of how much operators may see."""

from __future__ import annotations

import pytest

from runtime.sites.areas import Areas
from runtime.sites.may_see import MaySee, may_see, sentence
from stages.geometry import GEOMETRIES

AREAS = Areas.of(GEOMETRIES["vit_b"], [(1080, 1920)])


def test_windows_of_other_frames_count_for_no_share() -> None:
    found = may_see(AREAS, {"b": [0, 20], "a": [2, 4, 10]}, {"a": 0, "b": 1})
    whole = AREAS.share([0])
    assert list(found) == ["a", "b"]
    assert found["a"] == MaySee(3, AREAS.share([2, 4, 10]), AREAS.share([2, 4, 10]))
    assert (found["b"].windows, found["b"].share) == (1, whole)
    assert found["b"].most == pytest.approx(2 * whole)


def test_one_line_names_all_operators() -> None:
    full = {name: MaySee(5, share, share) for name, share in (("a", 0.344), ("b", 0.331), ("c", 0.325))}
    assert sentence(full, 15) == (
        "operators may see of the picture: a 34 %, b 33 %, c 32 %; 5 of 15 windows each"
    )


def test_what_an_operator_may_take_over_is_in_it() -> None:
    found = {"a": MaySee(7, 0.35, 0.351), "b": MaySee(6, 0.3, 0.36), "spare": MaySee(0, 0.0, 0.36)}
    assert sentence(found, 20) == (
        "operators may see of the picture: a 35 %, b 30 % (36 % if others fail), "
        "spare 0 % (36 % if others fail); 7, 6, 0 of 20 windows"
    )
