"""What window blocks at the edge cost and hide: milliseconds, bytes, masks, and pictures rebuilt.

    python -m benchmarks.head_blocks --checkpoint assets/mini.safetensors --train PHOTOS --data HELDOUT \\
        --out benchmarks/results/head_blocks_mini.json

For K blocks and each form of `hidden`. Nothing is trained but what rebuilds the picture: one linear map a
token (`evaluation.audit.inversion`) from what travels of it to its pixels, fitted to windows of PHOTOS, which
must hold no picture of DATA, and measured on windows of DATA that are picture throughout. Codes of tiles are
beside it, and what comes back after all window blocks. A network does better than a linear map, so these are
lower bounds of what a site can see.

Masks are those of a box and of a point for objects of DATA, in fp32, against those of tiles as they are; of
`hidden` all that travelling does is computed. Bytes are those of message bodies for a frame of 16:9, down
with every channel in int8. Milliseconds are those of the head in onnxruntime for a frame of 15 windows, four
a call: the fastest of REPEATS.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from benchmarks.machine import describe
from evaluation.audit.inversion import fit_inversion
from evaluation.masks import box_of, deepest_point
from export.checkpoints.load import load_weights
from export.checks.numerics import in_parts, window_tensors
from export.checks.pictures import photographs, resized
from export.components import choose_head, spread
from export.decoder import DecoderStage
from export.exporter import ExportOptions, empty_bundle, write_stage
from export.head import Head
from export.modules import GlobalStage, HeadStage, RestStage, WindowStage
from export.sam import Weights
from export.stages import stage_plans
from media.pictures import read_picture
from runtime.head import AT_ONCE
from runtime.sites.client import WIRE_OUTPUTS
from runtime.sites.traffic import message_bytes
from stages.bundle import Stage, sha256
from stages.engines.backends import make_engine
from stages.files import replace_file
from stages.geometry import Geometry
from stages.hidden import HEAD
from stages.tensors import Array, Pixels
from stages.tile_code import RGB, TileCode, cut
from stages.tile_inputs import blank_canvas
from training.data import read_samples
from training.samples import Sample
from training.tally import Tally

BLOCKS = (1, 2, 4)
FORMS = (("fp16", None), ("int8", None), ("int8", 96))  # and components of mini's 192
CODES = ("dct:15/6", "dct:10/3", "dct:6/3")
FRAME = (1080, 1920)
OBJECTS = 3  # of a picture, the largest
REPEATS = 60


@dataclass(frozen=True)
class Windows:
    """Windows that are picture throughout: inputs of a stage, and their pixels uint8 [n, S, S, 3]."""

    inputs: tuple[Tensor, Tensor, Tensor]
    pixels: Pixels


def windows_of(paths: Sequence[Path], g: Geometry) -> Windows:
    found, pixels = [], []
    inside = g.tokens // g.window  # windows a side whose tokens all lie on the canvas
    for path in paths:
        picture = resized(read_picture(path), g)
        tile, index, extent = window_tensors(RGB, g, picture)
        canvas = blank_canvas(g)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        full = [
            i
            for i in range(g.windows)
            if extent[i].tolist() == [0, 0, g.tile_px, g.tile_px] and max(divmod(i, g.grid)) < inside
        ]
        found.append((tile[full], index[full], extent[full]))
        pixels += [cut(canvas, i, g) for i in full]
    tile, index, extent = (torch.cat([each[i] for each in found]) for i in range(3))
    return Windows((tile, index, extent), np.stack(pixels))


Encode: TypeAlias = Callable[..., Tensor]


def travelled(weights: Weights, head: Head) -> Encode:
    """What a site has of a window: hidden states as they arrive, fp32 [n, w, w, r]."""
    stage = HeadStage(weights.sam, weights.geometry, head)

    def encode(*inputs: Tensor) -> Tensor:
        hidden, *scale = stage(*inputs)
        arrived: Tensor = hidden.float() * scale[0].float() if scale else hidden.float()
        return arrived

    return encode


def came_back(weights: Weights) -> Encode:
    """What comes back of a window, in the components that the weights hold: what a site computes itself."""
    stage = WindowStage(weights.sam, weights.geometry, torch.float32, RGB, weights.projection)
    return stage.encode


@torch.no_grad()
def tokens_from(encode: Encode, windows: Windows) -> Array:
    """fp32 [n, w * w, r]."""
    parts = [encode(*part) for part in in_parts(windows.inputs)]
    return torch.cat(parts).flatten(1, 2).numpy()


@dataclass(frozen=True)
class Rebuilt:
    """How near rebuilt windows come: PSNR of all pixels together, and the mean SSIM of windows."""

    psnr_db: float
    ssim: float


def compared(rebuilt: Array, truth: Pixels) -> Rebuilt:
    """Windows [n, S, S, 3] against the pixels that were there."""
    rebuilt = rebuilt.astype(np.float32).clip(0, 255)
    similarity: Callable[..., float] = structural_similarity
    squares = float(np.mean((rebuilt - truth) ** 2))
    similar = [
        similarity(a, b.astype(np.float32), channel_axis=2, data_range=255)
        for a, b in zip(rebuilt, truth, strict=True)
    ]
    return Rebuilt(10 * math.log10(255**2 / squares), float(np.mean(similar)))


def inverted(encode: Encode, known: Windows, unknown: Windows) -> Rebuilt:
    inversion = fit_inversion(tokens_from(encode, known), known.pixels)
    return compared(inversion.invert(tokens_from(encode, unknown)), unknown.pixels)


def decoded(code: TileCode, unknown: Windows, g: Geometry) -> Rebuilt:
    """What a site decodes of coded tiles."""
    extents = g.extents(g.image_size, g.image_size)[:1]
    tiles = []
    for pixels in unknown.pixels:
        canvas = blank_canvas(g)
        cut(canvas, 0, g)[:] = pixels
        tiles.append(code.decode(code.encode(canvas, extents, [0], g), g)[0])
    return compared(np.stack(tiles), unknown.pixels)


@dataclass(frozen=True)
class Prompted:
    """A picture on the canvas, with a box and a point in canvas pixels for each of some objects."""

    inputs: tuple[Tensor, ...]
    coords: Tensor
    labels: Tensor


def prompted(samples: Sequence[Sample], g: Geometry) -> Iterator[Prompted]:
    for sample in samples:
        masks = sorted((mask for mask in sample.each_mask() if mask.any()), key=lambda m: -int(m.sum()))
        if not masks:
            continue
        picture = sample.image()
        scale = g.image_size / max(picture.shape[:2])
        coords, labels = [], []
        for mask in masks[:OBJECTS]:
            x0, y0, x1, y1 = box_of(mask)
            coords += [[[x0, y0], [x1, y1]], [deepest_point(mask), (0, 0)]]
            labels += [[2.0, 3.0], [1.0, -1.0]]
        inputs = window_tensors(RGB, g, resized(picture, g))
        yield Prompted(inputs, scale * torch.tensor(coords, dtype=torch.float32), torch.tensor(labels))


class Chain:
    """Masks from what windows become: bool [prompts, 4E, 4E]."""

    def __init__(self, weights: Weights, encode: Encode) -> None:
        self._encode, self._g = encode, weights.geometry
        self._global = GlobalStage(weights.sam, weights.geometry)
        self._decoder = DecoderStage(weights.sam)

    @torch.no_grad()
    def masks(self, picture: Prompted) -> Tensor:
        embedding = torch.cat([self._encode(*part) for part in in_parts(picture.inputs)])
        count, side = len(picture.coords), self._g.mask_px
        none = torch.zeros(count, 1, side, side), torch.zeros(count, 1)
        logits, rated = self._decoder(self._global(embedding), picture.coords, picture.labels, *none)
        best = 1 + rated[:, 1:].argmax(dim=1)
        best[picture.labels[:, 0] == 2] = 0  # of boxes
        masks: Tensor = logits[torch.arange(count), best] > 0
        return masks


def head_and_rest(weights: Weights, head: Head) -> Encode:
    sam, g = weights.sam, weights.geometry
    first, rest = HeadStage(sam, g, head), RestStage(sam, g, torch.float32, head)

    def encode(tile: Tensor, index: Tensor, extent: Tensor) -> Tensor:
        hidden, *scale = first(tile, index, extent)
        return rest.encode(hidden, index, *scale)

    return encode


def ious(found: Tensor, expected: Tensor) -> list[float]:
    both, either = ((found & expected).flatten(1).sum(1), (found | expected).flatten(1).sum(1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()


def frame_bytes(weights: Weights, head: Head | None, tiles: TileCode = RGB) -> dict[str, int]:
    """Bytes of the message bodies of a frame, up and down."""
    g = weights.geometry
    plans = {p.name: p for p in stage_plans(weights.sam, g, "float16", tiles=tiles, head=head)}
    window = plans["window"]
    each = message_bytes(Stage("window", "", {}, window.inputs, window.outputs, "fp32"), WIRE_OUTPUTS["int8"])
    count = len(g.windows_with_picture(*FRAME))
    return {"up": count * each.up, "down": count * each.down}


def head_ms(weights: Weights, head: Head, threads: int) -> float:
    """Milliseconds of the head for the windows of a frame, AT_ONCE a call."""
    g = weights.geometry
    count = len(g.windows_with_picture(*FRAME))
    with tempfile.TemporaryDirectory() as folder:
        bundle = empty_bundle(weights, g, Path(folder), ExportOptions(), head)
        plan = next(plan for plan in stage_plans(weights.sam, g, "float16", head=head) if plan.name == HEAD)
        bundle = write_stage(bundle, plan, plan.build())
        engine = make_engine(bundle, HEAD, "onnxruntime-cpu", threads)
        engine.open()
        try:
            grey = np.full((*g.resized(*FRAME), 3), 90, np.uint8)
            tensors = zip(("tile", "index", "extent"), window_tensors(RGB, g, grey), strict=True)
            feeds = {name: tensor.numpy() for name, tensor in tensors}
            parts = [
                {name: array[start : min(start + AT_ONCE, count)] for name, array in feeds.items()}
                for start in range(0, count, AT_ONCE)
            ]
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                for part in parts:
                    engine.infer(part)
                seconds.append(time.perf_counter() - started)
        finally:
            engine.close()
    return 1e3 * min(seconds)


@dataclass(frozen=True)
class Material:
    """What every row is measured on: windows to fit to, windows to rebuild, pictures with prompts, and their
    masks of tiles as they are."""

    known: Windows
    unknown: Windows
    scenes: Sequence[Prompted]
    expected: Sequence[Tensor]

    def against(self, weights: Weights, encode: Encode, code: TileCode = RGB) -> dict[str, float | int]:
        """IoU of the masks behind `encode`, with tiles in a code."""
        chain, g = Chain(weights, encode), weights.geometry
        values: list[float] = []
        for scene, expected in zip(self.scenes, self.expected, strict=True):
            given = scene if code == RGB else replace(scene, inputs=recoded(scene.inputs, code, g))
            values += ious(chain.masks(given), expected)
        return {"iou_mean": float(np.mean(values)), "iou_least": min(values), "masks": len(values)}

    def rebuilt(self, encode: Encode) -> dict[str, float]:
        """How near a linear map comes to the pixels."""
        return vars(inverted(encode, self.known, self.unknown))


def rows(weights: Weights, train: Path, material: Material) -> Iterator[dict[str, Any]]:
    g, plain = weights.geometry, replace(weights, projection=None)
    yield {"sent": "tiles, rgb", "blocks": 0, "bytes_a_frame": frame_bytes(plain, None)}
    for name in CODES:
        code = TileCode.parse(name)
        yield {
            "sent": f"tiles, {name}",
            "blocks": 0,
            "bytes_a_frame": frame_bytes(plain, None, code),
            **material.against(plain, WindowStage(weights.sam, g, torch.float32, code).encode, code),
            **vars(decoded(code, material.unknown, g)),
        }
    for blocks in BLOCKS:
        milliseconds = {str(n): head_ms(plain, Head(blocks, "fp16"), n) for n in (1, 2)}
        for form, components in FORMS:
            head = choose_head(weights, blocks, form, components, train, click.echo)
            if head is None:
                raise ValueError(f"{blocks} blocks are no head")
            hidden = head.hidden(g)
            yield {
                "sent": f"hidden, {hidden.components} x {form}",
                "blocks": blocks,
                "variance_kept": hidden.variance_kept,
                "head_ms": milliseconds,
                "bytes_a_frame": frame_bytes(plain, head),
                **material.against(plain, head_and_rest(plain, head)),
                **material.rebuilt(travelled(weights, head)),
            }
    for held, what in ((plain, "every channel"), (weights, "as the weights hold it")):
        yield {
            "sent": f"what comes back, {what}",
            "blocks": len(g.window_blocks),
            **material.rebuilt(came_back(held)),
        }


def recoded(inputs: Sequence[Tensor], code: TileCode, g: Geometry) -> tuple[Tensor, ...]:
    """Inputs of all windows with tiles as they are, in a code."""
    tile, index, extent = inputs
    tiles = tile.numpy().reshape(g.grid, g.grid, g.tile_px, g.tile_px, 3)
    canvas = np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4)).reshape(g.grid * g.tile_px, -1, 3)
    coded = code.encode(canvas, extent.numpy(), range(g.windows), g)
    return torch.from_numpy(coded), index, extent


def markdown(found: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of a table."""
    lines = [
        "| blocks at the edge | sent | head, ms, 1 / 2 threads | kB up | IoU, mean (least) | PSNR | SSIM |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in found:
        ms = " / ".join(f"{value:.0f}" for value in row["head_ms"].values()) if "head_ms" in row else ""
        up = f"{row['bytes_a_frame']['up'] / 1e3:.1f}" if "bytes_a_frame" in row else ""
        iou = f"{row['iou_mean']:.4f} ({row['iou_least']:.2f})" if "iou_mean" in row else ""
        seen = f"{row['psnr_db']:.1f} dB" if "psnr_db" in row else "all"
        similar = f"{row['ssim']:.2f}" if "ssim" in row else ""
        lines.append(f"| {row['blocks']} | {row['sent']} | {ms} | {up} | {iou} | {seen} | {similar} |")
    return lines


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--train", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--pictures", type=click.IntRange(1), default=60, show_default=True, help="Of DATA.")
@click.option("--known", type=click.IntRange(1), default=300, show_default=True, help="Of PHOTOS, to fit to.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(checkpoint: Path, train: Path, data: Path, pictures: int, known: int, out: Path) -> None:
    """Measure and write OUT, with the table as Markdown on standard output."""
    weights = load_weights(None, checkpoint)
    g = weights.geometry
    of_train = windows_of(spread(photographs(train), known), g)
    samples = read_samples(data, None, Tally())
    chosen = [samples[int(i)] for i in np.linspace(0, len(samples) - 1, min(pictures, len(samples))).round()]
    of_data = windows_of(spread(photographs(data), pictures), g)
    scenes = list(prompted(chosen, g))
    whole = Chain(weights, WindowStage(weights.sam, g, torch.float32).encode)
    material = Material(of_train, of_data, scenes, [whole.masks(scene) for scene in scenes])
    found: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "sha256": sha256(checkpoint),
        "windows_known": len(of_train.pixels),
        "windows_rebuilt": len(of_data.pixels),
        "pictures": len(scenes),
        "machine": describe(),
        "rows": found,
    }
    for row in rows(weights, train, material):
        found.append(row)
        click.echo(markdown([row])[-1])
        result["table"] = markdown(found)
        replace_file(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
