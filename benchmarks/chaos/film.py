"""Short films of exactly the canvas' size, so that every tile of them is known beforehand, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from media.pictures import write_picture
from runtime.demo.demo import photo
from runtime.frames.canvas import make_canvas
from stages.bundle import Bundle, shipped_bundle
from stages.tile_code import OFFSET

Pixels = npt.NDArray[np.uint8]

TILE = 80  # pixels a side of a window of mini
GRID = 5  # windows a side
FRAMES = 12
SHAPES = ((384, 216), (384, 216), (216, 384), (384, 384))  # width and height of each film, pixels
PHOTOS = ("astronaut", "coffee", "astronaut", "coffee")
RESEMBLES = 0.2  # share of equal values in a tile, which what shows nothing of the film stays below
STEP = 4  # pixels the picture moves from frame to frame
# Boxes alone: of one point the best of three masks is taken, and a rounding may make another one the best.
PROMPTS = ("--box", "40,20,190,200", "--box", "90,60,180,150")


@dataclass(frozen=True, eq=False)
class Film:
    """A folder of pictures. `tiles` are all its tiles as they are sent, uint8 [n, ...]; `shows` maps the
    bytes of each to the windows that look so."""

    folder: Path
    tiles: Pixels
    shows: Mapping[bytes, frozenset[int]]

    def shown(self, tile: Pixels, index: int) -> int | None:
        """The window whose pixels are in a tile that was sent as `index`; None: none of the film.

        Of several windows that look alike it is the one that was said.
        """
        found = self.shows.get(tile.tobytes())
        return None if found is None else index if index in found else min(found)

    def resembles(self, tile: Pixels) -> bool:
        """Whether a good part of a tile's values are those of a tile of the film, at their places.

        Black and white do not count: padding is black, and so may a probe be. Nor does what a code has for
        nothing.
        """
        alike = (self.tiles == tile) & ~np.isin(tile, (0, OFFSET, 255))
        return bool(alike.reshape(len(alike), -1).mean(axis=1).max() > RESEMBLES)


def windows_of(shape: tuple[int, int]) -> frozenset[int]:
    """The windows that hold picture, for a frame of this width and height."""
    return frozenset(window for window, _, _ in _places(shape))


def make_film(number: int, folder: Path) -> Film:
    """Write the frames of a film into `folder`; its tiles are as the shipped bundle has them sent."""
    bundle = Bundle.load(shipped_bundle())
    folder.mkdir(parents=True, exist_ok=True)
    tiles = []
    shows: dict[bytes, frozenset[int]] = {}
    for frame, pixels in enumerate(_frames(number)):
        write_picture(folder / f"{frame:03}.png", pixels)
        canvas = make_canvas(pixels, bundle.geometry)
        sent = canvas.window_inputs(canvas.windows, bundle)["tile"]
        for window, tile in zip(canvas.windows, sent, strict=True):
            tiles.append(tile)
            shows[tile.tobytes()] = shows.get(tile.tobytes(), frozenset()) | {window}
    return Film(folder, np.stack(tiles), shows)


def _frames(number: int) -> Iterator[Pixels]:
    """RGB uint8 [H, W, 3]: a crop that moves over a photograph."""
    width, height = SHAPES[number]
    picture = Image.fromarray(photo(PHOTOS[number]))
    scale = max((width + STEP * FRAMES) / picture.width, (height + STEP * FRAMES) / picture.height)
    whole = np.asarray(picture.resize((round(picture.width * scale) + 1, round(picture.height * scale) + 1)))
    for frame in range(FRAMES):
        start = frame * STEP
        yield np.ascontiguousarray(whole[start : start + height, start : start + width])


def _places(shape: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Window, top and left of each that holds picture."""
    width, height = shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield top // TILE * GRID + left // TILE, top, left
