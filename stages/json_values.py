"""Values of JSON from others: refused where parsers would differ, and shown in few characters."""

from __future__ import annotations

import math
import reprlib
from typing import Any

_BRIEF = 80
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = 60


class KeyTwice(ValueError):
    """A key stands twice in one object: parsers differ in which one they keep."""

    def __init__(self) -> None:
        super().__init__("a key stands twice in one object")


def brief(value: object) -> str:
    """A value for a sentence: short, printable, and made without writing all of it out first."""
    return _REPR.repr(value)[:_BRIEF]


def no_constant(text: str) -> None:
    """A `parse_constant` that refuses NaN and Infinity, which Python's parser takes. Raises ValueError."""
    raise ValueError(f"{text} is no number in JSON")


def finite(text: str) -> float:
    """A `parse_float`. Raises ValueError for a number that is too large for a float."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is too large")
    return value


def whole(text: str) -> int:
    """A `parse_int`. Raises ValueError like `finite`."""
    finite(text)
    return int(text)


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook`. Raises KeyTwice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise KeyTwice
    return fields
