"""Descriptions of a stage's tensors, checked where arrays enter an engine or come off the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.errors import EngineError, PedsamError

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]  # RGB [H, W, 3] where nothing else is said
DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one tensor.

    A string in `shape` names a dynamic axis. `bounds` are the smallest and largest value allowed, for the
    small integer tensors a graph uses to index with.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: tuple[int, int] | None = None

    def problem(self, shape: Sequence[int], dtype: str) -> str | None:
        """One clause saying what is wrong with an array of this shape and dtype, or None."""
        if dtype != self.dtype:
            return f"{self.name} is {dtype}, expected {self.dtype}"
        fits = len(shape) == len(self.shape) and all(
            got >= 1 if isinstance(want, str) else got == want
            for got, want in zip(shape, self.shape, strict=True)
        )
        if not fits:
            return f"{self.name} has shape {list(shape)!s:.80}, expected [{', '.join(map(str, self.shape))}]"
        return None

    def value_problem(self, array: Array) -> str | None:
        """One clause saying which bound a value breaks, or None."""
        if self.bounds is None or (array.min() >= self.bounds[0] and array.max() <= self.bounds[1]):
            return None
        low, high = self.bounds
        return f"{self.name} has values from {array.min()} to {array.max()}, expected {low} to {high}"

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return data | ({"bounds": list(self.bounds)} if self.bounds else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Raises KeyError, TypeError or ValueError for what describes no tensor."""
        name, dtype, shape, bounds = data["name"], data["dtype"], data["shape"], data.get("bounds")
        if not isinstance(name, str) or dtype not in DTYPES:
            raise ValueError(f"tensor {name!r:.80} has dtype {dtype!r:.40}, expected one of {DTYPES}")
        if not all(isinstance(axis, str) or (type(axis) is int and axis > 0) for axis in shape):
            raise ValueError(f"tensor {name!r:.80} has shape {shape!r:.80}")
        return cls(name, dtype, tuple(shape), (int(bounds[0]), int(bounds[1])) if bounds else None)


@lru_cache(maxsize=64)  # numpy makes the name anew each time, which takes longer than all other checks
def dtype_name(dtype: np.dtype[Any]) -> str:
    """numpy's name of a dtype: "uint8"."""
    name: str = dtype.name
    return name


def check_arrays(
    specs: Sequence[TensorSpec], arrays: Mapping[str, Array], error: type[PedsamError] = EngineError
) -> None:
    """Raise `error` unless `arrays` holds exactly the tensors `specs` describe, with equal dynamic axes."""
    check_shapes(
        specs, {name: (array.shape, dtype_name(array.dtype)) for name, array in arrays.items()}, error
    )
    check_values(specs, arrays, error)


def check_shapes(
    specs: Sequence[TensorSpec],
    given: Mapping[str, tuple[Sequence[int], str]],
    error: type[PedsamError] = EngineError,
) -> None:
    """`check_arrays` of what is known without the numbers: shapes and names of dtypes."""
    names = [spec.name for spec in specs]
    if sorted(given) != sorted(names):
        raise error(f"got tensors {sorted(given)}, expected {sorted(names)}")
    axes: dict[str, int] = {}
    for spec in specs:
        shape, dtype = given[spec.name]
        if problem := spec.problem(shape, dtype):
            raise error(problem)
        for axis, size in zip(spec.shape, shape, strict=True):
            if isinstance(axis, str) and axes.setdefault(axis, size) != size:
                raise error(f"{spec.name} has {size} along axis {axis}, other tensors have {axes[axis]}")


def check_values(
    specs: Sequence[TensorSpec], arrays: Mapping[str, Array], error: type[PedsamError] = EngineError
) -> None:
    """Raise `error` where a number is outside of the bounds of its tensor."""
    for spec in specs:
        if problem := spec.value_problem(arrays[spec.name]):
            raise error(problem)
