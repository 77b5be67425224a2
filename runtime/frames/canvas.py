"""Frame to canvas and tiles, and low-resolution masks back to the frame.

Byte-equal to segment_anything's ResizeLongestSide and Sam.preprocess (padding), and equal to
Sam.postprocess_masks to float rounding; a test compares both with the originals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.bundle import Bundle
from stages.geometry import Geometry
from stages.strips import row_strips
from stages.tensors import Array, Pixels
from stages.tile_code import cut
from stages.tile_inputs import blank_canvas, whole_inputs, window_inputs


@dataclass(frozen=True)
class Canvas:
    """A frame resized into the top-left corner of a black square that whole windows tile.

    `pixels` is uint8 [grid * S, grid * S, 3] RGB; `rows` x `cols` of it are picture; `height` x `width` was
    the frame's own size in pixels.
    """

    geometry: Geometry
    pixels: npt.NDArray[np.uint8]
    rows: int
    cols: int
    height: int
    width: int

    @property
    def windows(self) -> tuple[int, ...]:
        """Indices of the windows that hold picture; the others are never sent."""
        return self.geometry.windows_with_picture(self.height, self.width)

    @cached_property
    def extents(self) -> npt.NDArray[np.int32]:
        """Where the picture is in the tile of each window; see Geometry.extents."""
        return self.geometry.extents(self.rows, self.cols)

    def tile(self, window: int) -> Pixels:
        """The pixels of one window, [S, S, 3]; a view."""
        return cut(self.pixels, window, self.geometry)

    def window_inputs(self, windows: Sequence[int], bundle: Bundle) -> dict[str, Array]:
        """Inputs of the bundle's window stage for some windows, or of its head where it has one."""
        return window_inputs(bundle, self.pixels, self.extents, windows)

    def whole_inputs(self, bundle: Bundle) -> dict[str, Array]:
        """Inputs of the bundle's whole stage."""
        return whole_inputs(bundle, self.pixels, self.extents)

    def to_canvas_xy(self, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Frame coordinates (x, y) [..., 2] as canvas coordinates; SAM's ResizeLongestSide.apply_coords."""
        scale = np.array([self.cols / self.width, self.rows / self.height])
        scaled: npt.NDArray[np.float32] = (np.asarray(points, np.float64) * scale).astype(np.float32)
        return scaled

    def to_frame_mask(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Low-resolution logits [M, M] as a mask of the frame, bool [height, width]."""
        size = self.geometry.image_size
        square = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
        picture = np.asarray(square[: self.rows, : self.cols], np.float32)
        strips = list(row_strips(self.height, self.width))
        if len(strips) > 1:
            return _enlarged_mask(picture, self.height, self.width, strips)
        mask: npt.NDArray[np.bool_] = (
            cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_LINEAR) > 0
        )
        return mask

    def shows(self, logits: npt.NDArray[np.float32]) -> bool:
        """Whether the mask of these logits [M, M] has a pixel on the frame.

        A square of positive logits inside the picture that is wider than the distance of the frame's pixels
        holds one of them, and is found at least 10x faster than the mask of a frame of 640 x 360 is made.
        """
        if not (logits > 0).any():
            return False
        cell_px = self.geometry.image_size / len(logits)
        step_px = max(self.cols / self.width, self.rows / self.height)
        side = math.ceil((step_px + 2) / cell_px) + 1
        inside = logits[: int(self.rows / cell_px), : int(self.cols / cell_px)] > 0
        return holds_square(inside, side) or bool(self.to_frame_mask(logits).any())


def holds_square(cells: npt.NDArray[np.bool_], side: int) -> bool:
    """Whether a square of `side` x `side` cells is True in all of them."""
    if min(cells.shape) < side:
        return False
    eroded = cv2.erode(
        cells.astype(np.uint8),
        np.ones((side, side), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=(0,),
    )
    return bool(eroded.any())


def make_canvas(frame: npt.NDArray[np.uint8], geometry: Geometry) -> Canvas:
    """Resize an RGB frame, uint8 [H, W, 3], with Pillow's bilinear filter as SAM does."""
    height, width = frame.shape[:2]
    rows, cols = geometry.resized(height, width)
    pixels = blank_canvas(geometry)
    pixels[:rows, :cols] = np.asarray(Image.fromarray(frame).resize((cols, rows), Image.Resampling.BILINEAR))
    return Canvas(geometry, pixels, rows, cols, height, width)


def _enlarged_mask(
    logits: npt.NDArray[np.float32], height: int, width: int, strips: Sequence[slice]
) -> npt.NDArray[np.bool_]:
    """Logits [rows, cols] as a mask, bool [height, width], as cv2.resize makes it, one strip at a time."""
    wide = cv2.resize(logits, (width, len(logits)), interpolation=cv2.INTER_LINEAR)
    mask = np.empty((height, width), bool)
    for strip in strips:
        place = (np.arange(strip.start, strip.stop) + 0.5) * (len(logits) / height) - 0.5
        place = place.clip(0, len(logits) - 1)
        above = place.astype(np.intp)
        below = np.minimum(above + 1, len(logits) - 1)
        weight = (place - above).astype(np.float32)[:, None]
        mask[strip] = wide[above] * (1 - weight) + wide[below] * weight > 0
    return mask
