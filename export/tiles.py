"""The beginning of the stages that take tiles: coded tiles to normalised pixels, by constant matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.sam import Sam
from stages.geometry import Geometry
from stages.tile_code import MACRO, OFFSET, RGB, TileCode, synthesis


class TilePixels(nn.Module):
    """Coded tiles as SAM's encoder takes pixels.

    tile uint8 [n, K], extent int32 [n, 4] -> fp32 [n, 3, S, S]: decoded, normalised, then zero outside
    `extent`. It computes in fp32 in a stage of any precision.
    """

    mean: Tensor
    std: Tensor
    synthesis: Tensor

    def __init__(self, sam: Sam, geometry: Geometry, code: TileCode = RGB) -> None:
        super().__init__()
        self.side = geometry.tile_px
        self.coded = code != RGB
        self.register_buffer("mean", sam.pixel_mean.flatten())
        self.register_buffer("std", sam.pixel_std.flatten())
        if self.coded:
            self.register_buffer("synthesis", torch.from_numpy(synthesis(code)))

    def forward(self, tile: Tensor, extent: Tensor) -> Tensor:
        tile = tile.float()  # first of all: TensorRT reshapes no uint8
        pixels = self.decoded(tile) if self.coded else tile.reshape(-1, self.side, self.side, 3)
        return normalise(pixels, extent, self.mean, self.std)

    def decoded(self, tile: Tensor) -> Tensor:
        """[n, K] -> [n, S, S, 3], 0 to 255, fp32: stages.tile_code.TileCode.decode as a graph."""
        macro = self.side // MACRO
        # [n, K] -> [n, rows, cols, 768] -> [n, rows, 16, cols, 16, 3] -> [n, S, S, 3]
        levels = tile.reshape(-1, macro, macro, self.synthesis.shape[0]) - OFFSET
        blocks = (levels @ self.synthesis + OFFSET).clamp(0, 255)
        pixels = blocks.reshape(-1, macro, macro, MACRO, MACRO, 3).permute(0, 1, 3, 2, 4, 5)
        return pixels.reshape(-1, self.side, self.side, 3)


def normalise(pixels: Tensor, extent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """fp32 [n, S, S, 3] -> [n, 3, S, S]: SAM's normalisation, then zeros outside `extent` [n, 4]."""
    side = torch.arange(pixels.shape[1])[None, :]
    top, left, bottom, right = extent.unsqueeze(-1).unbind(1)
    rows, cols = (side >= top) & (side < bottom), (side >= left) & (side < right)
    inside = rows[:, :, None, None] & cols[:, None, :, None]
    scaled = (pixels - mean) / std
    return torch.where(inside, scaled, torch.zeros_like(scaled)).permute(0, 3, 1, 2)


def stitched(tiles: Tensor, geometry: Geometry) -> Tensor:
    """Tiles of all windows [windows, 3, S, S] as the canvas [1, 3, image_size, image_size]."""
    grid, side, size = geometry.grid, geometry.tile_px, geometry.image_size
    # -> [3, grid rows, S, grid cols, S]
    canvas = tiles.reshape(grid, grid, 3, side, side).permute(2, 0, 3, 1, 4)
    return canvas.reshape(1, 3, grid * side, grid * side)[:, :, :size, :size]
