"""What a tile is sent as: its pixels, or the lowest DCT coefficients of its blocks, one byte each.

Problem: a tile of vit_b is 150,528 B, 15 of them a frame. An entropy code would make them small, and lengths
that tell something about the picture. So every block keeps the same number of coefficients, and a window is
K = (S / 16)^2 * (4 L + 2 C) bytes whatever it shows; L = 10 and C = 3 keep a seventeenth of the pixels'
bytes. What is lost is fine detail and, in a block with a hard edge, contrast: a coefficient that does not fit
its byte saturates (`TileCode.saturated`).

The code, as JPEG's (ITU-T T.81, JFIF 1.02) but without entropy coding: YCbCr in full range, minus 128. Per
macroblock of 16 x 16 pixels, row by row: L luma coefficients of each of its four 8 x 8 blocks, then C of Cb
and C of Cr, in zigzag order, each divided by its step, rounded, and sent with an offset of 128. Chroma has
half the resolution: its coefficients are the lowest of a 16 x 16 DCT, halved, which are those of the 8 x 8
DCT of a smoothly shrunk block. A step of 8 fits every DC coefficient into its byte.

Blocks that the picture ends in are coded with its border pixels repeated, for an edge to black rings twice as
far; the window stage zeroes what lies outside the extent. Blocks without picture are OFFSET throughout.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.errors import InputError
from stages.geometry import Geometry
from stages.tensors import Array, Pixels

BLOCK = 8  # pixels a side of a luma block
MACRO = 16  # pixels a side of a macroblock
OFFSET = 128
DC_STEP = 8.0
AC_STEP = 4.0
COARSE_AC_STEP = 6.0  # where fewer than COARSE_BELOW luma coefficients are kept, larger ones saturate less
COARSE_BELOW = 10
MOST = BLOCK**2  # coefficients of a luma block
MOST_CHROMA = 36  # the next in zigzag order is of a frequency that half the resolution does not have
FINEST_STEP, COARSEST_STEP = 1 / 16, 256.0
_NAME = re.compile(r"dct:([0-9]{1,2})/([0-9]{1,2})")
# Rows: Y, Cb, Cr of JFIF 1.02; columns: R, G, B.
_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TileCode:
    """How tiles are coded: the steps of the coefficients kept of a luma and of a chroma block.

    At most MOST and MOST_CHROMA, each of FINEST_STEP to COARSEST_STEP; `parse` and `from_json` see to that.
    Without steps a tile is its pixels ("rgb").
    """

    luma_steps: tuple[float, ...] = ()
    chroma_steps: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """As `--tiles` takes it: "rgb" or "dct:L/C"."""
        return f"dct:{len(self.luma_steps)}/{len(self.chroma_steps)}" if self.luma_steps else "rgb"

    @classmethod
    def parse(cls, name: str) -> TileCode:
        """The code of this name with the usual steps. Raises InputError."""
        if name == "rgb":
            return cls()
        match = _NAME.fullmatch(name)
        kept = [int(number) for number in match.groups()] if match else []
        if not (match and 1 <= kept[0] <= MOST and 1 <= kept[1] <= MOST_CHROMA):
            raise InputError(
                f"--tiles is {name!r:.40}, expected rgb, or dct:L/C with the coefficients kept of a luma and "
                f"of a chroma block, 1 to {MOST} and 1 to {MOST_CHROMA}: dct:10/3"
            )
        step = COARSE_AC_STEP if kept[0] < COARSE_BELOW else AC_STEP
        luma, chroma = ((DC_STEP, *(number - 1) * (step,)) for number in kept)
        return cls(luma, chroma)

    def to_json(self) -> dict[str, Any]:
        if not self.luma_steps:
            return {"name": self.name}
        return {
            "name": self.name,
            "luma_steps": list(self.luma_steps),
            "chroma_steps": list(self.chroma_steps),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TileCode:
        """Raises KeyError, TypeError or ValueError for what describes no code."""
        luma, chroma = (
            tuple(float(step) for step in data.get(key, ())) for key in ("luma_steps", "chroma_steps")
        )
        code = cls(luma, chroma)
        usable = all(FINEST_STEP <= step <= COARSEST_STEP for step in luma + chroma)
        if not usable or bool(luma) != bool(chroma) or len(luma) > MOST or len(chroma) > MOST_CHROMA:
            raise ValueError(
                f"tile code {data!r:.80} has steps that code nothing, expected 1 to {MOST} of luma and 1 to "
                f"{MOST_CHROMA} of chroma, each of 1/16 to {COARSEST_STEP:g}"
            )
        if data["name"] != code.name:
            raise ValueError(f"tile code {data['name']!r:.40} has the steps of {code.name}")
        return code

    @property
    def macroblock_bytes(self) -> int:
        return 4 * len(self.luma_steps) + 2 * len(self.chroma_steps)

    def tile_bytes(self, geometry: Geometry) -> int:
        """Bytes of one coded tile, K. Raises InputError where a tile is not made of whole macroblocks."""
        side = geometry.tile_px
        if not self.luma_steps:
            return side * side * 3
        if side % MACRO:
            raise InputError(
                f"{self.name} needs tiles of a multiple of {MACRO} pixels, and those of {geometry.name} have "
                f"{side}; give --tiles rgb"
            )
        return (side // MACRO) ** 2 * self.macroblock_bytes

    def encode(
        self,
        pixels: Pixels,
        extents: npt.NDArray[np.int32],
        windows: Sequence[int],
        geometry: Geometry,
    ) -> npt.NDArray[np.uint8]:
        """Windows of a canvas, coded: uint8 [n, K].

        `pixels` is RGB [grid * S, grid * S, 3]; `extents` [n, 4] are top, left, bottom, right of the picture
        inside the tiles of these `windows`.
        """
        tiles = [cut(pixels, window, geometry) for window in windows]
        coded = np.full((len(tiles), self.tile_bytes(geometry)), OFFSET, np.uint8)
        if not self.luma_steps:
            for row, tile in zip(coded, tiles, strict=True):
                row[:] = tile.reshape(-1)
            return coded
        side = geometry.tile_px // MACRO
        blocks = coded.reshape(len(tiles), side, side, self.macroblock_bytes)
        for row, tile, extent in zip(blocks, tiles, extents, strict=True):
            where, levels = self._levels(tile, extent)
            row[where] = levels.clip(0, 255)
        return coded

    def saturated(
        self,
        pixels: Pixels,
        extents: npt.NDArray[np.int32],
        windows: Sequence[int],
        geometry: Geometry,
    ) -> float:
        """The share of coefficients that do not fit their byte; arguments as of `encode`."""
        if not self.luma_steps:
            return 0.0
        levels = [
            self._levels(cut(pixels, window, geometry), extent)[1].ravel()
            for window, extent in zip(windows, extents, strict=True)
        ]
        values = np.concatenate(levels)
        return float(((values < 0) | (values > 255)).mean()) if values.size else 0.0

    def _levels(self, tile: Pixels, extent: Array) -> tuple[tuple[slice, slice], Matrix]:
        """The macroblocks with picture, and their levels before these are cut to bytes: [r, c, 4L + 2C]."""
        top, left, bottom, right = map(int, extent)
        if bottom <= top or right <= left:
            return (slice(0, 0), slice(0, 0)), np.empty((0, 0, self.macroblock_bytes), np.float32)
        rows, cols = slice(top // MACRO, -(-bottom // MACRO)), slice(left // MACRO, -(-right // MACRO))
        picture = tile[MACRO * rows.start : MACRO * rows.stop, MACRO * cols.start : MACRO * cols.stop]
        if any(edge % MACRO for edge in (top, left, bottom, right)):
            row, col = MACRO * rows.start, MACRO * cols.start
            picture = _border_repeated(picture, top - row, left - col, bottom - row, right - col)
        luma, luma_offset, chroma = _analysis(self)
        blocks = _blocks(picture).astype(np.float32)
        high, wide = rows.stop - rows.start, cols.stop - cols.start
        levels = np.empty((high, wide, self.macroblock_bytes), np.float32)
        kept = 4 * len(self.luma_steps)
        levels[..., :kept] = (blocks.reshape(-1, 192) @ luma + luma_offset).reshape(high, wide, kept)
        levels[..., kept:] = (blocks.reshape(-1, 768) @ chroma + OFFSET).reshape(high, wide, -1)
        return (rows, cols), np.rint(levels, out=levels)

    def decode(self, coded: npt.NDArray[np.uint8], geometry: Geometry) -> npt.NDArray[np.float32]:
        """Pixels RGB [n, S, S, 3] of coded tiles [n, K], 0 to 255, not rounded: what a window stage does."""
        n, side = len(coded), geometry.tile_px
        if not self.luma_steps:
            return coded.reshape(n, side, side, 3).astype(np.float32)
        macro = side // MACRO
        # [n, K] -> [n, rows, cols, 16, 16, 3] -> [n, S, S, 3]
        levels = coded.reshape(n, macro, macro, -1).astype(np.float32) - OFFSET
        blocks = (levels @ synthesis(self) + OFFSET).clip(0, 255)
        pixels = blocks.reshape(n, macro, macro, MACRO, MACRO, 3).transpose(0, 1, 3, 2, 4, 5)
        tiles: npt.NDArray[np.float32] = pixels.reshape(n, side, side, 3)
        return tiles


RGB = TileCode()


def cut(pixels: Pixels, window: int, geometry: Geometry) -> Pixels:
    """A window's tile [S, S, 3] of a canvas [grid * S, grid * S, 3]; a view."""
    side = geometry.tile_px
    row, col = divmod(window, geometry.grid)
    return pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]


def synthesis(code: TileCode) -> Matrix:
    """The matrix that turns a macroblock's levels less OFFSET [4L + 2C] into its pixels less 128 [16, 16, 3].

    float32 [4L + 2C, 768].
    """
    luma = _dct(BLOCK)[: len(code.luma_steps)] * np.array(code.luma_steps)[:, None, None]
    chroma = 2 * _dct(MACRO)[: len(code.chroma_steps)] * np.array(code.chroma_steps)[:, None, None]
    return _macroblock(luma, chroma, np.linalg.inv(_YCBCR).T)


def analysis(code: TileCode) -> Matrix:
    """The other way, before levels are rounded and cut to bytes: float32 [768, 4L + 2C]."""
    luma = _dct(BLOCK)[: len(code.luma_steps)] / np.array(code.luma_steps)[:, None, None]
    chroma = _dct(MACRO)[: len(code.chroma_steps)] / np.array(code.chroma_steps)[:, None, None] / 2
    return np.ascontiguousarray(_macroblock(luma, chroma, _YCBCR).T)


def _macroblock(luma: Array, chroma: Array, colours: Array) -> Matrix:
    """Patterns of luma [L, 8, 8] and chroma [C, 16, 16], each where the code has it in a macroblock.

    float32 [4L + 2C, 768]; `colours` [3, 3] says in each row how Y, Cb or Cr shows in R, G and B.
    """
    planes = []  # [coefficients, 16, 16, 3] of Y, Cb, Cr, one block after the other
    for row, col in np.ndindex(2, 2):
        plane = np.zeros((len(luma), MACRO, MACRO, 3))
        plane[:, BLOCK * row : BLOCK * (row + 1), BLOCK * col : BLOCK * (col + 1), 0] = luma
        planes.append(plane)
    for component in (1, 2):
        plane = np.zeros((len(chroma), MACRO, MACRO, 3))
        plane[..., component] = chroma
        planes.append(plane)
    rgb: Matrix = (np.concatenate(planes) @ colours).astype(np.float32)
    return rgb.reshape(len(rgb), -1)


@functools.lru_cache(maxsize=8)
def _analysis(code: TileCode) -> tuple[Matrix, Matrix, Matrix]:
    """Matrices from pixels in the order of `_blocks` to levels: [192, L], its offset [L], and [768, 2C]."""
    y, *colours = _YCBCR
    luma = _dct(BLOCK)[: len(code.luma_steps)] / np.array(code.luma_steps)[:, None, None]
    chroma = _dct(MACRO)[: len(code.chroma_steps)] / np.array(code.chroma_steps)[:, None, None] / 2
    # [coefficients, 16, 16, 3] -> blocks of rows, blocks of columns, rows, columns
    planes = np.concatenate([chroma[..., None] * colour for colour in colours])
    planes = planes.reshape(-1, 2, BLOCK, 2, BLOCK, 3).transpose(0, 1, 3, 2, 4, 5)
    return (
        np.ascontiguousarray((luma[..., None] * y).reshape(len(luma), -1).T, np.float32),
        (OFFSET - 128 * luma.sum(axis=(1, 2))).astype(np.float32),
        np.ascontiguousarray(planes.reshape(len(planes), -1).T, np.float32),
    )


def _border_repeated(area: Pixels, top: int, left: int, bottom: int, right: int) -> Pixels:
    """A copy of an area with the border pixels of the picture inside it repeated up to its edges."""
    area = area.copy()
    area[:top], area[bottom:] = area[top], area[bottom - 1]
    area[:, :left], area[:, right:] = area[:, left : left + 1], area[:, right - 1 : right]
    return area


def _blocks(picture: Pixels) -> Pixels:
    """[r * 16, c * 16, 3] -> [r, c, 2, 2, 8, 8 * 3]: the four blocks of each macroblock one after the other.

    Moves eight pixels at a time, which is faster than one byte.
    """
    rows, cols = picture.shape[0] // MACRO, picture.shape[1] // MACRO
    eights = np.ascontiguousarray(picture).reshape(rows * MACRO, -1).view("V24")
    blocks = eights.reshape(rows, 2, BLOCK, cols, 2).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(blocks).view(np.uint8).reshape(rows, cols, 2, 2, BLOCK, -1)


@functools.cache
def _dct(size: int) -> npt.NDArray[np.float64]:
    """Basis of the orthonormal DCT-II: [MOST, size, size], its first coefficients in zigzag order."""
    line = dct_matrix(size)
    order = sorted(np.ndindex(size, size), key=lambda at: (sum(at), at[1 - sum(at) % 2]))
    return np.stack([np.outer(line[row], line[col]) for row, col in order[:MOST]])


def dct_matrix(size: int) -> npt.NDArray[np.float64]:
    """The orthonormal DCT-II of a line: [frequencies, places], both `size`."""
    steps = np.arange(size)
    matrix = np.cos(np.pi * (2 * steps[None] + 1) * steps[:, None] / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
