"""Tensor descriptions and the checks made with them."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from stages.errors import EngineError, WireError
from stages.tensors import DTYPES, TensorSpec, check_arrays
from stages.wire import DATATYPES
from tests.support.fakes import INPUTS, OUTPUTS, tiles

COORDS = TensorSpec("coords", "float32", ("p", "k", 2))
LABELS = TensorSpec("labels", "float32", ("p", "k"))


def test_every_dtype_of_a_bundle_has_a_name_on_the_wire() -> None:
    assert set(DATATYPES.values()) == set(DTYPES)


@pytest.mark.parametrize("spec", [*INPUTS, *OUTPUTS, COORDS])
def test_specs_survive_json(spec: TensorSpec) -> None:
    assert TensorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"dtype": "float64"},
        {"dtype": None},
        {"dtype": ["uint8"]},
        {"shape": 3},
        {"shape": ["n", 0]},
        {"shape": ["n", True]},
        {"shape": ["n", 1.0]},
        {"bounds": 5},
        {"bounds": ["a", "b"]},
    ],
)
def test_what_describes_no_tensor_is_refused(change: dict[str, Any]) -> None:
    data = {**INPUTS[1].to_json(), **change}
    with pytest.raises((KeyError, TypeError, ValueError)):
        TensorSpec.from_json(data)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("tile", np.zeros((1, 4, 4, 3), np.int8), "tile is int8, expected uint8"),
        ("tile", np.zeros((1, 4, 4), np.uint8), "tile has shape [1, 4, 4], expected [n, 4, 4, 3]"),
        ("tile", np.zeros((1, 4, 5, 3), np.uint8), "tile has shape [1, 4, 5, 3], expected [n, 4, 4, 3]"),
        ("tile", np.zeros((0, 4, 4, 3), np.uint8), "tile has shape [0, 4, 4, 3], expected [n, 4, 4, 3]"),
        ("index", np.array([[25]], np.int32), "index has values from 25 to 25, expected 0 to 24"),
        ("index", np.array([[-1]], np.int32), "index has values from -1 to -1, expected 0 to 24"),
        ("extent", np.array([[0, 5]], np.int32), "extent has values from 0 to 5, expected 0 to 4"),
        ("extent", np.full((2, 2), 4, np.int32), "extent has 2 along axis n, other tensors have 1"),
    ],
)
def test_each_wrong_array_is_named(name: str, array: np.ndarray[Any, Any], words: str) -> None:
    for error in (EngineError, WireError):
        with pytest.raises(error, match=re.escape(words)):
            check_arrays(INPUTS, {**tiles(3), name: array}, error)


def test_bounds_are_inclusive() -> None:
    check_arrays(INPUTS, tiles(0, 24))


def test_missing_and_unknown_arrays_are_named() -> None:
    arrays = tiles(1)
    arrays["tyle"] = arrays.pop("tile")
    with pytest.raises(EngineError, match=r"got tensors \['extent', 'index', 'tyle'\], expected .*'tile'"):
        check_arrays(INPUTS, arrays)


def test_each_dynamic_axis_has_one_size() -> None:
    specs = (COORDS, LABELS)
    check_arrays(specs, {"coords": np.ones((2, 5, 2), np.float32), "labels": np.ones((2, 5), np.float32)})
    with pytest.raises(EngineError, match="labels has 4 along axis k, other tensors have 5"):
        check_arrays(specs, {"coords": np.ones((2, 5, 2), np.float32), "labels": np.ones((2, 4), np.float32)})


def test_a_sentence_stays_short_whatever_shape_comes() -> None:
    problem = INPUTS[0].problem([10**2000] * 1000, "uint8")
    assert problem is not None
    assert len(problem) < 200
