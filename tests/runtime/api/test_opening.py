"""What `pedsam.open` takes: the options of an edge, by their names and with their defaults."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import pedsam
from runtime.api.opening import check_options
from runtime.detectors.kinds import KINDS
from runtime.edge import EdgeOptions
from runtime.options import TABLES
from stages.bundle import Bundle, shipped_bundle
from stages.errors import BundleError

OWN = {"bundle": None, "sizes": (), "films": True, "allow_undistilled": False}
OPENINGS = [pedsam.open, pedsam.open_async]


@pytest.mark.parametrize("opening", OPENINGS)
def test_every_option_of_an_edge_is_one_by_its_name_and_default(opening: Any) -> None:
    taken = {name: each.default for name, each in inspect.signature(opening).parameters.items()}
    assert taken == {**OWN, **{field.name: field.default for field in fields(EdgeOptions)}}
    assert list(taken)[:2] == ["bundle", "sites"]


@pytest.mark.parametrize("opening", OPENINGS)
def test_it_is_known_what_they_give(opening: Any) -> None:
    given = {pedsam.open: "Session", pedsam.open_async: "AsyncSession"}
    assert inspect.signature(opening).return_annotation == given[opening]


def test_options_of_the_command_have_the_same_names_and_bounds() -> None:
    """Least and most of every number, and every choice, are those of `pedsam run`."""
    options = {str(option.name): option for table in TABLES.values() for option in table}
    bundle = Bundle.load(shipped_bundle())
    for field in fields(EdgeOptions):
        kind = options[field.name].type
        for bound, beyond in ((getattr(kind, "min", None), -1), (getattr(kind, "max", None), 1)):
            if bound is None or bound == 1e9:
                continue
            if not (getattr(kind, "min_open", False) and beyond < 0):
                check_options(bundle, EdgeOptions(**{field.name: bound}), True)
            with pytest.raises(pedsam.ArgumentError, match=f"{field.name} is .*, expected a number from"):
                check_options(bundle, EdgeOptions(**{field.name: bound + beyond}), True)
        if choices := getattr(kind, "choices", None):
            other: dict[str, Any] = {field.name: "other"}
            with pytest.raises(pedsam.ArgumentError) as caught:
                check_options(bundle, EdgeOptions(**other), True)
            assert all(repr(choice) in str(caught.value) for choice in choices)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no bundle": ({"bundle": "gone"}, "gone is no bundle: nothing is there; make one with pedsam export"),
    "an old place": ({"bundle": "assets/mini"}, "or give --bundle mini, which comes with pedsam"),
    "sizes": ({"sizes": (360, 640)}, r"sizes are not \[\(height, width\), ...\]"),
    "no size": ({"sizes": [(0, 640)]}, "sizes are heights and widths in pixels, at least 1 each"),
    "keep": ({"keep": ("hands",)}, "'hands' is nothing that can be kept; expected faces, text"),
    "boxes": ({"keep_boxes": [(1, 2, 3)]}, r"keep_boxes are not \[\[left, top, right, bottom\]"),
    "an empty box": ({"keep_boxes": [(9, 9, 9, 9)]}, "--keep-box 9,9,9,9 is empty"),
    "share": ({"spot_check_share": 0}, "spot_check_share is 0, expected more"),
    "threads": ({"threads": "many"}, "threads is 'many', expected a number from 1 to 1024"),
    "streaming": ({"encoder": "streaming"}, "--encoder streaming needs the parts of the global stage"),
}


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_at_once(opening: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(pedsam.PedsamError, match=words):
        opening(**given)


def test_a_name_that_open_does_not_know_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match=r"^open\(\) got an unexpected keyword argument 'keep_box'"):
        pedsam.open(keep_box=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^open\(\) too many positional arguments"):
        pedsam.open("mini", None, ())  # type: ignore[call-arg]


def test_kinds_may_be_one_text() -> None:
    assert set(KINDS) == {"faces", "text"}
    with pedsam.open(keep="faces, text", threads=1) as session:
        assert not session.closed


def test_mini_is_what_comes_with_pedsam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pedsam.open_async("mini").model == pedsam.open_async().model
    (tmp_path / "mini").mkdir()
    with pytest.raises(BundleError, match=r"mini is no bundle: it holds no bundle\.json"):
        pedsam.open_async("mini")
