"""The dimensions of a SAM image encoder and what follows from them: windows, tiles, extents.

Source: `segment_anything.modeling.image_encoder` (window_partition, Block) and
`segment_anything.build_sam` (the numbers of vit_b, vit_l and vit_h).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """One model's numbers; everything else in the project derives from these.

    `image_size` and `patch` are pixels, `window` is tokens a side, `global_blocks` are indices into
    SAM's own block order.
    """

    name: str
    image_size: int
    patch: int
    window: int
    dim: int
    heads: int
    depth: int
    global_blocks: tuple[int, ...]
    prompt_dim: int = 256

    @property
    def tokens(self) -> int:
        """Tokens a side of the canvas (64 for vit_*); also the side E of the image embedding."""
        return self.image_size // self.patch

    @property
    def grid(self) -> int:
        """Windows a side, counting those that are part padding."""
        return -(-self.tokens // self.window)

    @property
    def windows(self) -> int:
        return self.grid**2

    @property
    def tile_px(self) -> int:
        """Pixels a side of one window's tile."""
        return self.window * self.patch

    def embedding_shape(self, components: int) -> tuple[int, int, int]:
        """Shape of one window's embedding as it travels: rows, columns (tokens), components."""
        return self.window, self.window, components

    @property
    def mask_px(self) -> int:
        """Pixels a side of a low-resolution mask."""
        return 4 * self.tokens

    @property
    def window_blocks(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.depth) if i not in self.global_blocks)

    @property
    def block_order(self) -> tuple[int, ...]:
        """SAM's block indices in the order they run after reordering: window blocks, then global ones."""
        return self.window_blocks + self.global_blocks

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        return (self.tile_px, self.tile_px, 3)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a frame on the canvas, rounded half up as SAM's ResizeLongestSide does."""
        if height < 1 or width < 1:
            raise InputError(f"a frame is {width} x {height} pixels; expected at least 1 x 1")
        scale = self.image_size / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def extents(self, rows: int, cols: int) -> npt.NDArray[np.int32]:
        """Where the picture is in each tile, for rows x cols of it at the top left of the canvas.

        int32 [windows, 4]: top, left, bottom, right, half-open. Without any, bottom or right is 0.
        """
        starts = np.arange(self.grid) * self.tile_px
        bottom = np.clip(rows - starts, 0, self.tile_px)
        right = np.clip(cols - starts, 0, self.tile_px)
        grid_rows, grid_cols = np.divmod(np.arange(self.windows), self.grid)
        zeros = np.zeros(self.windows, np.int64)
        return np.stack([zeros, zeros, bottom[grid_rows], right[grid_cols]], axis=1).astype(np.int32)

    def windows_with_picture(self, height: int, width: int) -> tuple[int, ...]:
        """Indices of the windows that hold at least one pixel of a frame of this size."""
        extents = self.extents(*self.resized(height, width))
        return tuple(int(i) for i in np.flatnonzero((extents[:, :2] < extents[:, 2:]).all(axis=1)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Geometry:
        return cls(**{**data, "global_blocks": tuple(data["global_blocks"])})


def _vit(name: str, dim: int, heads: int, depth: int, global_blocks: tuple[int, ...]) -> Geometry:
    return Geometry(name, 1024, 16, 14, dim, heads, depth, global_blocks)


GEOMETRIES = {
    geometry.name: geometry
    for geometry in (
        Geometry("mini", 384, 16, 5, 192, 3, 12, (2, 5, 8, 11)),
        Geometry("small", 512, 16, 7, 256, 4, 12, (2, 5, 8, 11)),
        _vit("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        _vit("vit_l", 1024, 16, 24, (5, 11, 17, 23)),
        _vit("vit_h", 1280, 16, 32, (7, 15, 23, 31)),
    )
}
