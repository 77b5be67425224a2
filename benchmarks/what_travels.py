"""The picture of docs/what-travels.md: a tile as it is and as a site sees it at each code, and the mask then.

    python -m benchmarks.what_travels --checkpoint assets/mini.safetensors --out assets/what-travels.jpg

The photograph and its box are the demo's. Every mask is computed in fp32 by the stages of that code, and
compared with the one of uncoded tiles; no weights are trained for a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from export.checkpoints.load import load_weights
from export.checks.numerics import window_tensors
from export.checks.pictures import resized
from export.decoder import DecoderStage
from export.modules import GlobalStage, WindowStage
from export.sam import Weights
from media.pictures import write_picture
from runtime.demo.demo import SCENES, photo
from stages.geometry import Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import RGB, TileCode

CODES = ("rgb", "dct:21/6", "dct:15/6", "dct:10/3", "dct:6/3")
SIDE, LINE, GAP = 224, 18, 8  # pixels of a drawn tile, of a line of text and between tiles
OUTLINE = (255, 80, 80)


@dataclass(frozen=True)
class Seen:
    """One code: a tile as a site decodes it, uint8 [S, S, 3], the mask inside it, bool [S, S], what the tile
    takes, and the IoU of the whole mask with that of uncoded tiles."""

    code: TileCode
    tile: Pixels
    mask: Array
    tile_bytes: int
    iou: float


@torch.no_grad()
def canvas_mask(weights: Weights, code: TileCode, inputs: Sequence[Tensor], box: Sequence[float]) -> Array:
    """The mask of a box x0, y0, x1, y1 in canvas pixels: bool [image_size, image_size]."""
    sam, g = weights.sam, weights.geometry
    embedding = WindowStage(sam, g, torch.float32, code).encode(*inputs)
    corners, labels = torch.tensor(box).reshape(1, 2, 2), torch.tensor([[2.0, 3.0]])
    none = torch.zeros(1, 1, g.mask_px, g.mask_px), torch.zeros(1, 1)
    masks, _ = DecoderStage(sam)(GlobalStage(sam, g)(embedding), corners, labels, *none)
    size = (g.image_size, g.image_size)
    large = torch.nn.functional.interpolate(masks[:, :1], size, mode="bilinear", align_corners=False)
    return (large[0, 0] > 0).numpy()


def seen_at(weights: Weights, picture: Pixels, box: Sequence[float], codes: Sequence[str]) -> list[Seen]:
    """The tile whose window the uncoded mask's outline fills best, at each code."""
    g = weights.geometry
    scaled = [value * g.image_size / max(picture.shape[:2]) for value in box]
    canvas = resized(picture, g)
    reference = canvas_mask(weights, RGB, window_tensors(RGB, g, canvas), scaled)
    window = _most_divided(reference[: canvas.shape[0], : canvas.shape[1]], g)
    found = []
    for name in codes:
        code = TileCode.parse(name)
        inputs = window_tensors(code, g, canvas)
        mask = canvas_mask(weights, code, inputs, scaled)
        tile = code.decode(inputs[0][window : window + 1].numpy(), g)[0]
        iou = float((mask & reference).sum() / max(1, (mask | reference).sum()))
        part = _part(mask, window, g)
        found.append(Seen(code, tile.round().astype(np.uint8), part, code.tile_bytes(g), iou))
    return found


def _part(mask: Array, window: int, g: Geometry) -> Array:
    row, col = (place * g.tile_px for place in divmod(window, g.grid))
    return mask[row : row + g.tile_px, col : col + g.tile_px]


def _most_divided(mask: Array, g: Geometry) -> int:
    """The window that is picture throughout and whose share of mask is nearest to half."""
    whole = (mask.shape[0] // g.tile_px, mask.shape[1] // g.tile_px)
    windows = [row * g.grid + col for row in range(whole[0]) for col in range(whole[1])]
    return min(windows, key=lambda window: abs(float(_part(mask, window, g).mean()) - 0.5))


def drawn(seen: Sequence[Seen]) -> Pixels:
    """The tiles side by side, below each its code and bytes, then with the mask's outline and its IoU."""
    width, height = len(seen) * (SIDE + GAP) - GAP, 2 * (SIDE + LINE)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, each in enumerate(seen):
        left = number * (SIDE + GAP)
        for row, tile, text in (
            (0, each.tile, f"{each.code.name}: {each.tile_bytes:,} bytes"),
            (1, outlined(each.tile, each.mask), f"mask against that of rgb: IoU {each.iou:.3f}"),
        ):
            top = row * (SIDE + LINE)
            sheet.paste(Image.fromarray(tile).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
            draw.text((left + 2, top + SIDE + 3), text, fill="black")
    return np.array(sheet)


def outlined(tile: Pixels, mask: Array) -> Pixels:
    """A copy of a tile whose mask ends in pixels of OUTLINE."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    tile = tile.copy()
    tile[mask & ~inner] = OUTLINE
    return tile


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=Path("assets/mini.safetensors"))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(checkpoint: Path, out: Path) -> None:
    scene = SCENES[0]
    picture = photo(scene.photo)[: scene.region[1], : scene.region[0]]
    seen = seen_at(load_weights(None, checkpoint), picture, scene.box, CODES)
    write_picture(out, drawn(seen))
    for each in seen:
        click.echo(f"{each.code.name}: {each.tile_bytes} bytes a tile, IoU {each.iou:.4f}")


if __name__ == "__main__":
    main()
