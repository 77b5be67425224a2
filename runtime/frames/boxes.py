"""Boxes in pixels of the frame: left, top, right, bottom. `what` names one in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from stages.errors import InputError

BoxXyxy: TypeAlias = tuple[float, float, float, float]

MAX_COORDINATE_PX = 1e6


def check_finite(what: str, numbers: Iterable[float]) -> None:
    """Raise InputError for a coordinate that no frame has."""
    if not all(abs(number) <= MAX_COORDINATE_PX for number in numbers):  # nor is NaN
        raise InputError(f"{what} has a coordinate that is not a finite number below 1e6")


def check_not_empty(what: str, box: BoxXyxy) -> None:
    """Raise InputError for a box without area."""
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise InputError(
            f"{what} is empty: give left, top, right, bottom, with left < right and top < bottom, not a "
            "width and a height"
        )


def check_touches(what: str, box: BoxXyxy, height: int, width: int, picture: str | None = None) -> None:
    """Raise InputError when a box lies outside a frame of this size, of `picture`."""
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise InputError(f"{what} lies outside {frame_in_words(height, width, picture)}")


def within_one_pixel(what: str) -> str:
    """The sentence for coordinates between 0 and 1."""
    return (
        f"{what} lies within one pixel: coordinates are pixels of the frame, not shares of its width and "
        "height"
    )


def frame_in_words(height: int, width: int, picture: str | None) -> str:
    return f"the frame of {width} x {height} pixels" + (f" of {picture}" if picture else "")
