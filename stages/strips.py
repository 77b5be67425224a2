"""Large pictures in parts, so that what is computed from one is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

STRIP_PIXELS = 1 << 24


def row_strips(height: int, width: int, pixels: int = STRIP_PIXELS) -> Iterator[slice]:
    """The rows of a picture in slices of at most so many pixels, and at least one row."""
    rows = max(1, pixels // width)
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))
